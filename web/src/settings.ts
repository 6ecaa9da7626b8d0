/** How answers are sampled, kept in the browser. Knows nothing of how settings are shown. */

export interface Settings {
  /** 0 is the likeliest token always. */
  readonly temperature: number;
  readonly topP: number;
  readonly maxTokens: number;
  /** Drawn anew for each answer where there is none. */
  readonly seed: number | undefined;
}

export const DEFAULTS: Settings = { temperature: 0, topP: 1, maxTokens: 512, seed: undefined };

/** Least and largest values. */
export const LIMITS = {
  temperature: [0, 2],
  topP: [0.05, 1],
  maxTokens: [1, 8192],
  seed: [0, 2 ** 31 - 1],
} as const satisfies Record<keyof Settings, readonly [number, number]>;

/** The part of `localStorage` that is used. */
export interface Store {
  getItem(key: string): string | null;
  setItem(key: string, value: string): void;
}

const KEY = 'fusion.settings';

/** Any value → settings: what is missing or no number is the default, numbers are brought within their limits. */
export function validSettings(value: unknown): Settings {
  const given = (typeof value === 'object' && value !== null ? value : {}) as Record<string, unknown>;
  const number = (key: keyof Settings) => {
    const found = given[key];
    if (typeof found !== 'number' || !Number.isFinite(found)) return undefined;
    const [least, most] = LIMITS[key];
    return Math.min(Math.max(found, least), most);
  };
  const whole = (key: keyof Settings) => {
    const found = number(key);
    return found === undefined ? undefined : Math.round(found);
  };
  return {
    temperature: number('temperature') ?? DEFAULTS.temperature,
    topP: number('topP') ?? DEFAULTS.topP,
    maxTokens: whole('maxTokens') ?? DEFAULTS.maxTokens,
    seed: whole('seed'),
  };
}

/** The settings kept; the defaults where there are none, or where the browser keeps nothing. */
export function loadSettings(store: Store): Settings {
  try {
    return validSettings(JSON.parse(store.getItem(KEY) ?? '{}'));
  } catch {
    return DEFAULTS;
  }
}

export function saveSettings(store: Store, settings: Settings): void {
  try {
    store.setItem(KEY, JSON.stringify(settings));
  } catch {
    // A browser that keeps nothing still answers.
  }
}
