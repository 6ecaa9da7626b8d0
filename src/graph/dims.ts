/**
 * Dimensions and shapes. A dimension is a number, or a sum of products of letters (`'S'`, `'64+T'`, `'B*S'`)
 * kept in one canonical spelling, so that equal dimensions are equal strings. The letters are bound when a
 * program runs; letters never broadcast. Knows nothing of tensors.
 *
 * Glossary, shared with ONNX `dim_param`: B batch, S sequence, P patches, T question tokens, L latents,
 * D width, H heads, K kv heads, E head size, V vocabulary, N rows.
 */

export type Dim = number | string;
export type Shape = readonly Dim[];

/** Monomial (letters joined by `*`, `''` for the constant) → integer coefficient. */
type Polynomial = ReadonlyMap<string, number>;

/** One term as factors: a coefficient and its letters. */
export interface Term {
  readonly coefficient: number;
  readonly letters: readonly string[];
}

/** The terms of a dimension: `'64+2*B*S'` → 64 and 2·B·S. */
export function termsOf(dim: Dim): readonly Term[] {
  if (typeof dim === 'number') return [{ coefficient: dim, letters: [] }];
  return dim.split('+').map((text) => {
    let coefficient = 1;
    const letters: string[] = [];
    for (const factor of text.split('*')) {
      const number = Number(factor);
      if (Number.isNaN(number)) letters.push(factor);
      else coefficient *= number;
    }
    return { coefficient, letters: letters.sort() };
  });
}

function polynomial(dim: Dim): Polynomial {
  const sum = new Map<string, number>();
  for (const { coefficient, letters } of termsOf(dim)) {
    const key = letters.join('*');
    sum.set(key, (sum.get(key) ?? 0) + coefficient);
  }
  return sum;
}

function canonical(sum: Polynomial): Dim {
  const terms = [...sum].filter(([, coefficient]) => coefficient !== 0);
  terms.sort(([a], [b]) => (a < b ? -1 : 1));
  if (terms.length === 0) return 0;
  if (terms.length === 1 && terms[0]?.[0] === '') return terms[0][1];
  return terms
    .map(([key, coefficient]) =>
      key === '' ? `${coefficient}` : coefficient === 1 ? key : `${coefficient}*${key}`,
    )
    .join('+');
}

/** `a + b`. */
export function addDims(a: Dim, b: Dim): Dim {
  if (typeof a === 'number' && typeof b === 'number') return a + b;
  const sum = new Map(polynomial(a));
  for (const [key, coefficient] of polynomial(b)) sum.set(key, (sum.get(key) ?? 0) + coefficient);
  return canonical(sum);
}

/** `a · b`. */
export function multiplyDims(a: Dim, b: Dim): Dim {
  if (typeof a === 'number' && typeof b === 'number') return a * b;
  const product = new Map<string, number>();
  for (const [ka, ca] of polynomial(a)) {
    for (const [kb, cb] of polynomial(b)) {
      const key = [...ka.split('*'), ...kb.split('*')]
        .filter((letter) => letter !== '')
        .sort()
        .join('*');
      product.set(key, (product.get(key) ?? 0) + ca * cb);
    }
  }
  return canonical(product);
}

/** The number of elements of a shape, possibly symbolic. */
export function sizeOf(shape: Shape): Dim {
  return shape.reduce<Dim>(multiplyDims, 1);
}

/** The value of a dimension once its letters are bound. */
export function evaluateDim(dim: Dim, letters: ReadonlyMap<string, number>): number {
  let sum = 0;
  for (const term of termsOf(dim)) {
    let product = term.coefficient;
    for (const letter of term.letters) {
      const value = letters.get(letter);
      if (value === undefined) throw new Error(`dimension letter ${letter} of '${dim}' is not bound`);
      product *= value;
    }
    sum += product;
  }
  return sum;
}

export function sameShape(a: Shape, b: Shape): boolean {
  return a.length === b.length && a.every((dim, i) => dim === b[i]);
}

export function formatShape(shape: Shape): string {
  return `[${shape.join(', ')}]`;
}

/**
 * The shape two operands broadcast to (NumPy's rule; a letter equals only itself).
 * Throws with both shapes when they do not fit.
 */
export function broadcastShapes(a: Shape, b: Shape, where: string): Shape {
  const rank = Math.max(a.length, b.length);
  return Array.from({ length: rank }, (_, i) => {
    const da = a[i - rank + a.length] ?? 1;
    const db = b[i - rank + b.length] ?? 1;
    if (da === db || db === 1) return da;
    if (da === 1) return db;
    throw new Error(
      `${where}: shapes ${formatShape(a)} and ${formatShape(b)} do not broadcast (${da} ≠ ${db})`,
    );
  });
}

/** Axes of `to` along which `from` was repeated: those missing in front, and those of size 1. */
export function broadcastAxes(from: Shape, to: Shape): readonly number[] {
  const offset = to.length - from.length;
  return to.flatMap((dim, i) => (i < offset || (from[i - offset] === 1 && dim !== 1) ? [i] : []));
}

/** An axis counted from the front; negative ones count from the end. */
export function resolveAxis(axis: number, rank: number, where: string): number {
  const resolved = axis < 0 ? axis + rank : axis;
  if (!Number.isInteger(axis) || resolved < 0 || resolved >= rank) {
    throw new Error(`${where}: axis ${axis} is outside a tensor of rank ${rank}`);
  }
  return resolved;
}
