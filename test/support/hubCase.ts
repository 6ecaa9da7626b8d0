/** A fake hub, a cache in a temporary folder and what a download needs of the outside, for one test each. */
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { afterEach, beforeEach, expect } from 'vitest';
import type { Hub } from '../../src/checkpoint/hub/hub.ts';
import { parseHubId } from '../../src/checkpoint/hub/ids.ts';
import { UserError } from '../../src/common/errors.ts';
import { COMMIT_A, etagOf, type FakeHub, ID, startFakeHub } from './fakeHub.ts';

/** Bytes that differ everywhere, so that a shifted or repeated piece is noticed. */
export function noise(length: number, seed = 1): Buffer {
  const bytes = Buffer.alloc(length);
  for (let i = 0, x = seed; i < length; i++) {
    x = (Math.imul(x, 1664525) + 1013904223) >>> 0;
    bytes[i] = x >>> 24;
  }
  return bytes;
}

export const WEIGHTS = noise(200_000);
export const FILES: Readonly<Record<string, Buffer | string>> = {
  'config.json': '{"model_type":"fusion_phi"}',
  'tokenizer.json': noise(3_000, 2),
  'model.safetensors': WEIGHTS,
  'README.md': 'not needed',
  'pytorch_model.bin': noise(500, 3),
};
export const NEEDED = ['config.json', 'model.safetensors', 'tokenizer.json'];
export const id = parseHubId(ID)!;

export interface HubCase {
  fake: FakeHub;
  hub: Hub;
  /** Milliseconds of every pause, none of which was made. */
  pauses: number[];
  /** The folder of the model in the cache. */
  readonly folder: string;
  readonly snapshot: string;
  blob(content: Buffer): string;
  requested(server: 'hub' | 'cdn'): string[];
}

/** Fresh before each test of the file. */
export function hubCase(): HubCase {
  const each = {
    get folder() {
      return path.join(each.hub.cache, 'models--owner--model');
    },
    get snapshot() {
      return path.join(each.folder, 'snapshots', COMMIT_A);
    },
    blob: (content: Buffer) => path.join(each.folder, 'blobs', etagOf(content)),
    requested: (server: 'hub' | 'cdn') =>
      each.fake.requests.filter((one) => one.server === server).map(({ url }) => url),
  } as HubCase;
  beforeEach(async () => {
    each.fake = await startFakeHub(FILES);
    each.pauses = [];
    each.hub = {
      endpoint: each.fake.endpoint,
      cache: mkdtempSync(path.join(tmpdir(), 'fusion-hub-')),
      token: undefined,
      offline: false,
      stallMs: 5_000,
      wait: async (ms, signal) => {
        signal?.throwIfAborted();
        each.pauses.push(ms);
      },
      freeBytes: async () => 1e12,
    };
  });
  afterEach(async () => {
    await each.fake.close();
    rmSync(each.hub.cache, { recursive: true, force: true });
  });
  return each;
}

/** The message of the `UserError` an action ends with: one line. */
export async function refusalOf(action: Promise<unknown>): Promise<string> {
  const error = await action.then(
    () => new Error('it succeeded'),
    (thrown: unknown) => thrown,
  );
  expect(error).toBeInstanceOf(UserError);
  const { message } = error as UserError;
  expect(message).not.toContain('\n');
  return message;
}

/** That the snapshot has what is needed, rightly. */
export function expectWhole(snapshot: string): void {
  for (const name of NEEDED) {
    const expected = FILES[name]!;
    expect(readFileSync(path.join(snapshot, name)).equals(Buffer.from(expected)), name).toBe(true);
  }
}
