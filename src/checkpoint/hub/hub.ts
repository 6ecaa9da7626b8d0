/**
 * Where the hub and its cache are, with whose token: read from the environment variables that Hugging Face's own
 * programs read. And what a download needs of the outside, so that tests can give their own.
 *
 * Knows nothing of models or files. Source: "Environment variables" in the documentation of huggingface_hub.
 */
import { readFile, statfs } from 'node:fs/promises';
import { homedir } from 'node:os';
import path from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { UserError } from '../../common/errors.ts';

export type Hub = {
  /** Without a slash at its end. */
  readonly endpoint: string;
  /** The folder of all repositories. */
  readonly cache: string;
  readonly token: string | undefined;
  /** Nothing may be asked of the network. */
  readonly offline: boolean;
  /** How long a connection may give nothing, in milliseconds. */
  readonly stallMs: number;
  /** Rejects when `signal` aborts. */
  readonly wait: (ms: number, signal?: AbortSignal) => Promise<void>;
  /** Bytes free for this user on the disk of the existing folder `dir`. */
  readonly freeBytes: (dir: string) => Promise<number>;
};

type Environment = Readonly<Record<string, string | undefined>>;

const ENDPOINT = 'https://huggingface.co';
const STALL_SECONDS = 30;

/**
 * The hub of `HF_ENDPOINT`, the cache of `HF_HUB_CACHE` or `HF_HOME`, the token of `HF_TOKEN` or its file,
 * `HF_HUB_OFFLINE`, and `HF_HUB_DOWNLOAD_TIMEOUT` in seconds. Throws `UserError` for an endpoint that is no URL.
 */
export async function hubFromEnvironment(env: Environment = process.env): Promise<Hub> {
  const home =
    expand(env.HF_HOME) ??
    path.join(expand(env.XDG_CACHE_HOME) ?? path.join(homedir(), '.cache'), 'huggingface');
  const seconds = Number(env.HF_HUB_DOWNLOAD_TIMEOUT);
  return {
    endpoint: readEndpoint(env.HF_ENDPOINT || ENDPOINT),
    cache: expand(env.HF_HUB_CACHE) ?? expand(env.HUGGINGFACE_HUB_CACHE) ?? path.join(home, 'hub'),
    token: env.HF_TOKEN?.trim() || (await readToken(expand(env.HF_TOKEN_PATH) ?? path.join(home, 'token'))),
    offline: isTrue(env.HF_HUB_OFFLINE || env.TRANSFORMERS_OFFLINE),
    stallMs: 1000 * (seconds > 0 ? seconds : STALL_SECONDS),
    wait: async (ms, signal) => {
      await sleep(ms, undefined, signal === undefined ? {} : { signal });
    },
    freeBytes: async (dir) => {
      const { bavail, bsize } = await statfs(dir);
      return bavail * bsize;
    },
  };
}

function readEndpoint(text: string): string {
  const url = URL.canParse(text) ? new URL(text) : undefined;
  if (url?.protocol === 'https:' || url?.protocol === 'http:') return text.replace(/\/+$/, '');
  throw new UserError(`HF_ENDPOINT: expected a URL such as ${ENDPOINT}, got ${text}`);
}

/** An absolute path, `~` being the home folder; undefined where the variable is empty or not set. */
function expand(folder: string | undefined): string | undefined {
  return folder ? path.resolve(folder.replace(/^~(?=$|[\\/])/, homedir())) : undefined;
}

async function readToken(file: string): Promise<string | undefined> {
  const text = await readFile(file, 'utf8').catch(() => '');
  return text.trim() || undefined;
}

/** As Hugging Face reads its switches. */
function isTrue(text: string | undefined): boolean {
  return ['1', 'ON', 'YES', 'TRUE'].includes(text?.toUpperCase() ?? '');
}
