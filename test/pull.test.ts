/** `fusion pull` and hub ids in real processes, against a hub on this machine. */
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, statSync, utimesSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { Command } from 'commander';
import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest';
import { registerAsk } from '../src/cli/ask.ts';
import { registerChat } from '../src/cli/chat.ts';
import { registerCheck } from '../src/cli/check.ts';
import { registerEvalSynth } from '../src/cli/evalSynth.ts';
import { registerInit } from '../src/cli/init.ts';
import { registerInspect } from '../src/cli/inspect.ts';
import { registerMerge } from '../src/cli/merge.ts';
import { registerPull } from '../src/cli/pull.ts';
import { registerTrain } from '../src/cli/train.ts';
import { copyCheckpoint } from './support/checkpoints.ts';
import { finished, runCli, seen, startCli } from './support/cli.ts';
import { COMMIT_A, etagOf, type FakeHub, type Fault, ID, startFakeHub } from './support/fakeHub.ts';

const checkpoint = copyCheckpoint();
const files = Object.fromEntries(
  readdirSync(checkpoint.dir).map((name) => [name, readFileSync(path.join(checkpoint.dir, name))]),
);
checkpoint.remove();
const weights = files['model.safetensors']!;
const HALF = Math.floor(weights.length / 2);
const CDN_WEIGHTS = /^cdn:.*model\.safetensors/;

const COMMANDS = [
  registerPull,
  registerAsk,
  registerChat,
  registerEvalSynth,
  registerInspect,
  registerCheck,
  registerMerge,
  registerTrain,
  registerInit,
];

let hub: FakeHub;
let cache: string;
const folder = () => path.join(cache, 'models--owner--model');
const snapshot = () => path.join(folder(), 'snapshots', COMMIT_A);
const partial = () => path.join(folder(), 'blobs', `${etagOf(weights)}.incomplete`);
const lock = () => path.join(cache, '.locks/models--owner--model/fusion-vl.lock');

beforeEach(async () => {
  hub = await startFakeHub(files);
  cache = mkdtempSync(path.join(tmpdir(), 'fusion-pull-'));
  vi.stubEnv('HF_ENDPOINT', hub.endpoint);
  vi.stubEnv('HF_HUB_CACHE', cache);
  vi.stubEnv('HF_HOME', path.join(cache, 'home'));
  for (const name of ['HF_TOKEN', 'HF_TOKEN_PATH', 'HF_HUB_OFFLINE', 'TRANSFORMERS_OFFLINE'])
    vi.stubEnv(name, undefined);
});
afterEach(async () => {
  vi.unstubAllEnvs();
  vi.restoreAllMocks();
  await hub.close();
  rmSync(cache, { recursive: true, force: true });
});

/** Runs a command in this process. */
async function runHere(args: readonly string[]): Promise<void> {
  const program = new Command().exitOverride();
  for (const register of COMMANDS) register(program);
  vi.spyOn(process.stderr, 'write').mockReturnValue(true);
  await program.parseAsync(args, { from: 'user' });
}

/** Half of the weights, and then nothing. */
const stopsHalfway: Fault = (_request, response) => {
  response.writeHead(200, { 'Content-Length': weights.length });
  response.write(weights.subarray(0, HALF));
};
const halfIsThere = () => existsSync(partial()) && statSync(partial()).size === HALF;

function expectWhole(): void {
  expect(readFileSync(path.join(snapshot(), 'model.safetensors')).equals(weights)).toBe(true);
  expect(existsSync(lock())).toBe(false);
  expect(readdirSync(path.join(folder(), 'blobs')).filter((name) => name.includes('.'))).toEqual([]);
}

test('downloads, prints the folder, and finds everything there the next time', async () => {
  const { code, stdout, stderr } = await runCli(['pull', ID]);
  expect(stderr).toMatch(/^fusion: owner\/model: downloading [\d.]+ [kM]B to .*models--owner--model\n$/);
  expect([code, stdout]).toEqual([0, `${snapshot()}\n`]);
  expectWhole();
  expect(await runCli(['pull', ID])).toMatchObject({
    code: 0,
    stderr: `fusion: ${ID}: everything is in the cache\n`,
  });
});

test('two processes at once: one downloads, the other waits', async () => {
  let release = () => {};
  hub.fault(CDN_WEIGHTS, (_request, _response, pass) => {
    release = pass;
  });
  const first = startCli(['pull', ID]);
  const firstDone = finished(first);
  await vi.waitUntil(
    () => hub.requests.some(({ server, url }) => CDN_WEIGHTS.test(`${server}:${url}`)),
    30_000,
  );
  const second = startCli(['pull', ID]);
  const secondDone = finished(second);
  await seen(second.stderr, /another process is downloading it; waiting/);
  release();
  for (const { code, stdout } of await Promise.all([firstDone, secondDone])) {
    expect([code, stdout]).toEqual([0, `${snapshot()}\n`]);
  }
  expect((await secondDone).stderr).toContain('everything is in the cache');
  expect(hub.requests.filter(({ server, url }) => CDN_WEIGHTS.test(`${server}:${url}`))).toHaveLength(1);
  expectWhole();
});

describe('a download that was', () => {
  test.each(['SIGINT', 'SIGKILL'] as const)('ended by %s goes on', async (signal) => {
    hub.fault(CDN_WEIGHTS, stopsHalfway);
    const child = startCli(['pull', ID]);
    const done = finished(child);
    await vi.waitUntil(halfIsThere, 30_000);
    child.kill(signal);
    const { code, stdout, stderr } = await done;
    expect([code, stdout]).toEqual([signal === 'SIGINT' ? 130 : null, '']);
    if (signal === 'SIGINT')
      expect(stderr).toMatch(/\nfusion: stopped; the same command goes on where it stood\n$/);
    expect(existsSync(snapshot())).toBe(false);
    expect(existsSync(lock())).toBe(signal === 'SIGKILL');
    const longAgo = new Date(Date.now() - 60_000);
    if (signal === 'SIGKILL') utimesSync(lock(), longAgo, longAgo);
    expect(await runCli(['pull', ID])).toMatchObject({ code: 0, stdout: `${snapshot()}\n` });
    expect(hub.requests.map(({ range }) => range)).toContain(`bytes=${HALF}-`);
    expectWhole();
  });
});

describe('an id in place of a folder', () => {
  test('is downloaded once, then needs no hub', async () => {
    const first = await runCli(['inspect', ID]);
    expect(first).toMatchObject({ code: 0, stderr: expect.stringContaining(`asking ${hub.endpoint}`) });
    expect(first.stdout).toContain('decoder ');
    await hub.close();
    const second = await runCli(['inspect', ID]);
    expect(second).toEqual({ code: 0, stdout: first.stdout, stderr: '' });
  });

  test.each([
    ['ask', '--model', ID, 'Hi'],
    ['chat', '--model', ID],
    ['eval-synth', '--model', ID],
    ['inspect', ID],
    ['check', ID],
    ['merge', ID, 'adapter', '--out', 'nowhere'],
    ['merge', '.', ID, '--out', 'nowhere'],
    ['train', '--config', 'nowhere.yaml', '--base', ID, '--out', 'nowhere'],
    ['train', '--config', 'nowhere.yaml', '--base', '.', '--adapter', ID, '--out', 'nowhere'],
    ['init', '--decoder', ID, '--tower', '.', '--out', 'nowhere'],
    ['init', '--decoder', '.', '--tower', ID, '--out', 'nowhere'],
  ])('%s %s %s', async (...args) => {
    vi.stubEnv('HF_HUB_OFFLINE', '1');
    await expect(runHere(args)).rejects.toThrow(
      /^owner\/model: expected a folder, or a model in .*HF_HUB_OFFLINE/,
    );
    expect(hub.requests).toEqual([]);
  });
});

describe('mistakes are told', () => {
  test.each([
    ['./folder', /^id: expected owner\/name or owner\/name@revision, got \.\/folder$/],
    ['owner/modle', /^owner\/modle: expected a model on .* did you mean owner\/model\?$/],
    [ID, /^owner\/model: a gated or private model: ask for access at .*HF_TOKEN/],
  ])('%s', async (id, message) => {
    hub.gated = true;
    await expect(runHere(['pull', id, '--quiet'])).rejects.toThrow(message);
  });
});
