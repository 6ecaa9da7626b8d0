/** The option `--dtype` of commands that write weights: its words, and what they are called in files. */

/** What `--dtype` accepts. */
export const DTYPES = ['same', 'bf16', 'f16', 'f32'] as const;

export type DtypeFlag = (typeof DTYPES)[number];

/** The dtype a word stands for; `same` keeps each tensor's own. */
export function weightDtype(flag: DtypeFlag) {
  return ({ same: 'same', bf16: 'BF16', f16: 'F16', f32: 'F32' } as const)[flag];
}
