/** Everything that can go wrong on the way from the hub, and that nothing wrong stays behind. */
import {
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  statSync,
  utimesSync,
  writeFileSync,
} from 'node:fs';
import { open } from 'node:fs/promises';
import path from 'node:path';
import { afterEach, describe, expect, it, vi } from 'vitest';
import { answers, COMMIT_A, drops, etagOf, type Fault, sends } from '../../../test/support/fakeHub.ts';
import {
  expectWhole,
  FILES,
  hubCase,
  id,
  NEEDED,
  noise,
  refusalOf,
  WEIGHTS,
} from '../../../test/support/hubCase.ts';
import type { ProgressEvent } from '../../common/progress.ts';
import type { DownloadOptions } from './download.ts';
import { pullModel } from './resolve.ts';

const each = hubCase();
afterEach(() => vi.restoreAllMocks());

const CDN_WEIGHTS = /^cdn:.*model\.safetensors/;
const pull = (options: DownloadOptions = {}) => pullModel(id, options, each.hub);
const partial = () => `${each.blob(WEIGHTS)}.incomplete`;
/** Where each answer with weights was asked to begin. */
const weightsAsked = () =>
  each.fake.requests
    .filter(({ server, url }) => CDN_WEIGHTS.test(`${server}:${url}`))
    .map(({ range }) => Number(/bytes=(\d+)-/.exec(range ?? '')?.[1] ?? 0));
const rangesAsked = () =>
  each.fake.requests.filter((one) => one.range !== undefined).map((one) => `${one.server} ${one.range}`);

/** The weights up to `end`, then a broken connection. */
const dropsAt = (end: number): Fault =>
  drops(WEIGHTS, end, () => (statSync(partial(), { throwIfNoEntry: false })?.size ?? 0) >= end);

const endless: Fault = (_request, response) => {
  response.writeHead(200);
  const timer = setInterval(() => response.write(WEIGHTS), 5);
  response.on('close', () => clearInterval(timer));
};

/** Nothing under a name that a later run would trust. */
function expectNothingTrusted(): void {
  expect(existsSync(each.blob(WEIGHTS))).toBe(false);
  expect(existsSync(path.join(each.snapshot, 'model.safetensors'))).toBe(false);
  expect(existsSync(path.join(each.folder, 'refs/main'))).toBe(false);
}

/** Leaves the first `length` bytes of `content` as an earlier run would. */
function leavePartial(content: Buffer, length = content.length): void {
  mkdirSync(path.dirname(partial()), { recursive: true });
  writeFileSync(partial(), content.subarray(0, length));
}

describe('faults that pass', () => {
  const ignoresRange = sends(WEIGHTS);
  const sendsFrom =
    (begin: number): Fault =>
    (_request, response) =>
      void response
        .writeHead(206, { 'Content-Range': `bytes ${begin}-${WEIGHTS.length - 1}/${WEIGHTS.length}` })
        .end(WEIGHTS.subarray(begin));
  const silent: Fault = (_request, response) => {
    response.writeHead(200, { 'Content-Length': WEIGHTS.length });
    response.write(WEIGHTS.subarray(0, 1000));
  };

  // The last column: where the content asked for began, request by request.
  it.each<[string, Fault[], number[]]>([
    ['a drop mid-file is continued', [dropsAt(70_000)], [0, 70_000]],
    ['a server without ranges is read from the start', [dropsAt(70_000), ignoresRange], [0, 70_000]],
    ['503', [answers(503)], [0, 0]],
    ['an address that has grown old', [answers(403)], [0, 0]],
    ['a connection closed at once', [(request) => request.socket.destroy()], [0, 0]],
    ['a refused range', [dropsAt(9), answers(416)], [0, 9, 0]],
    ['a range that begins elsewhere', [dropsAt(9), sendsFrom(5)], [0, 9, 9]],
    ['a wrong length', [sends(WEIGHTS.subarray(1))], [0, 0]],
    ['too many bytes', [endless], [0, 0]],
    ['wrong bytes', [sends(noise(WEIGHTS.length, 9))], [0, 0]],
  ])('%s', async (_name, faults, begins) => {
    for (const fault of faults) each.fake.fault(CDN_WEIGHTS, fault);
    expectWhole((await pull()).folder);
    expect(weightsAsked()).toEqual(begins);
    expect(readdirSync(path.join(each.folder, 'blobs')).filter((name) => name.includes('.'))).toEqual([]);
  });

  it('a connection that gives nothing any more', async () => {
    each.fake.fault(CDN_WEIGHTS, silent);
    each.hub = { ...each.hub, stallMs: 500 };
    expectWhole((await pull()).folder);
    expect(weightsAsked()).toEqual([0, 1000]);
  });

  it('a connection that is slow is not given up', async () => {
    each.hub = { ...each.hub, stallMs: 1_000 };
    each.fake.fault(CDN_WEIGHTS, (_request, response) => {
      response.writeHead(200, { 'Content-Length': WEIGHTS.length });
      let sent = 0;
      const timer = setInterval(() => {
        response.write(WEIGHTS.subarray(sent, sent + 40_000));
        sent += 40_000;
        if (sent >= WEIGHTS.length) clearInterval(timer);
      }, 300);
    });
    expectWhole((await pull()).folder);
    expect(weightsAsked()).toEqual([0]);
  });

  it('many drops, as long as each brings something', async () => {
    for (let i = 1; i <= 12; i++) each.fake.fault(CDN_WEIGHTS, dropsAt(10_000 * i));
    expectWhole((await pull()).folder);
    expect(weightsAsked()).toHaveLength(13);
  });

  it('pauses double, within half and one and a half of their length', async () => {
    each.fake.fault(CDN_WEIGHTS, answers(500), 4);
    await pull();
    expect(each.pauses).toHaveLength(4);
    for (const [i, ms] of each.pauses.entries())
      expect(Math.abs(ms / (500 * 2 ** i) - 1)).toBeLessThanOrEqual(0.5);
  });

  it.each([
    [{ 'Retry-After': '7' }, 7_000],
    [{ RateLimit: '"resolvers";r=0;t=55' }, 55_000],
  ])('429 waits as told: %j', async (headers, ms) => {
    each.fake.fault(/^hub:.*config\.json/, answers(429, headers));
    each.fake.fault(/^hub:\/api\/models/, answers(429, headers));
    const notes: string[] = [];
    expectWhole((await pull({ onNote: (text) => notes.push(text) })).folder);
    expect(each.pauses).toEqual([ms, ms]);
    expect(notes[0]).toBe(`owner/model: too many requests (HTTP 429); waiting ${ms / 1000} s`);
  });

  it('429 with a date waits until then', async () => {
    each.fake.fault(
      /^hub:\/api/,
      answers(429, { 'Retry-After': new Date(Date.now() + 90_000).toUTCString() }),
    );
    await pull();
    expect(each.pauses[0]).toBeGreaterThan(85_000);
    expect(each.pauses[0]).toBeLessThanOrEqual(90_000);
  });
});

describe('partial files', () => {
  it('of an earlier run are continued', async () => {
    leavePartial(WEIGHTS, 150_000);
    const events: ProgressEvent[] = [];
    const { folder, fetchedBytes } = await pull({ onProgress: (event) => events.push(event) });
    expectWhole(folder);
    expect(fetchedBytes).toBe(50_000 + 3_000 + 27);
    expect(rangesAsked()).toEqual(['hub bytes=150000-', 'cdn bytes=150000-']);
    const total = 203_027;
    expect(events[0]).toEqual({ phase: 'download', unit: 'bytes', done: 150_000, total });
    expect(events.at(-1)).toEqual({ phase: 'download', unit: 'bytes', done: total, total });
  });

  it.each([
    ['half of it is wrong', () => leavePartial(noise(150_000, 7))],
    ['all of it is wrong', () => leavePartial(noise(WEIGHTS.length, 7))],
  ])('that cannot be trusted: %s', async (_name, leave) => {
    leave();
    expectWhole((await pull()).folder);
    expect(weightsAsked().at(-1)).toBe(0);
  });

  it('that are too long are not asked to go on', async () => {
    leavePartial(Buffer.concat([WEIGHTS, WEIGHTS]));
    expectWhole((await pull()).folder);
    expect(weightsAsked()).toEqual([0]);
  });

  it('that are whole are only checked', async () => {
    leavePartial(WEIGHTS);
    expectWhole((await pull()).folder);
    expect(each.requested('cdn').filter((url) => url.includes('model.safetensors'))).toEqual([]);
  });

  it('without a hash are continued only where the server says they are the same', async () => {
    const name = 'model.safetensors';
    const listing = { sha: COMMIT_A, siblings: [{ rfilename: name }] };
    each.fake.fault(/^hub:\/api\/models/, (_request, response) => void response.end(JSON.stringify(listing)));
    const head: Fault = (_request, response) =>
      void response.writeHead(200, { ETag: 'W/"v1"', 'Content-Length': WEIGHTS.length }).end();
    each.fake.fault(/^hub:\/owner/, head);
    mkdirSync(path.join(each.folder, 'blobs'), { recursive: true });
    writeFileSync(path.join(each.folder, 'blobs/v1.incomplete'), noise(100, 5));
    const { folder } = await pull();
    expect(readFileSync(path.join(folder, name)).equals(WEIGHTS)).toBe(true);
    expect(rangesAsked()).toEqual(['hub bytes=100-', 'cdn bytes=100-']);
  });
});

it('a mirror that lists names alone is asked for each file', async () => {
  each.fake.namesOnly = true;
  const { folder } = await pull();
  expectWhole(folder);
  expect(readdirSync(path.join(each.folder, 'blobs')).sort()).toEqual(
    NEEDED.map((name) => etagOf(Buffer.from(FILES[name]!))).sort(),
  );
  expect(each.fake.requests.filter(({ method }) => method === 'HEAD')).toHaveLength(4);
});

describe('faults that stay', () => {
  it.each<[string, Fault, RegExp]>([
    [
      'wrong bytes',
      sends(noise(WEIGHTS.length, 9)),
      /^owner\/model: model\.safetensors: expected 200000 bytes with hash [0-9a-f]{64}, got hash [0-9a-f]{64}, twice/,
    ],
    ['a wrong length', sends(WEIGHTS.subarray(1)), /got 199999 bytes, twice/],
    ['too many bytes', endless, /got more than 200000 bytes, twice/],
    [
      'no server',
      answers(502),
      /^owner\/model: model\.safetensors: HTTP 502 from 127\.0\.0\.1:\d+, 5 times in a row/,
    ],
    [
      'no ranges and drops',
      (_request, response) => drops(WEIGHTS, 5_000, () => true)({ headers: {} } as never, response, () => {}),
      /no connection with .*5 times in a row/,
    ],
    ['an address that stays too old', answers(403), /HTTP 403 from 127\.0\.0\.1:\d+, 5 times in a row/],
  ])('%s', async (_name, fault, message) => {
    each.fake.fault(CDN_WEIGHTS, fault, 100);
    expect(await refusalOf(pull())).toMatch(message);
    expectNothingTrusted();
  });

  it('a file that is gone', async () => {
    each.fake.fault(/^hub:.*model\.safetensors/, answers(404, { 'X-Error-Code': 'EntryNotFound' }));
    expect(await refusalOf(pull())).toBe(
      'owner/model: model.safetensors: expected a file of the model, got HTTP 404',
    );
    expectNothingTrusted();
  });

  it('a disk without room is found before anything is fetched', async () => {
    each.hub = { ...each.hub, freeBytes: async () => 100_000 };
    expect(await refusalOf(pull())).toMatch(
      /: expected 203\.0 kB free, got 100\.0 kB; make room, or name .* HF_HUB_CACHE$/,
    );
    expect(each.requested('cdn')).toEqual([]);
    leavePartial(WEIGHTS, 150_000);
    expectWhole((await pull()).folder);
  });

  it('a disk that fills up keeps what has come', async () => {
    const handle = await open(import.meta.filename);
    const prototype = Object.getPrototypeOf(handle) as { write: (...args: unknown[]) => Promise<unknown> };
    await handle.close();
    const { write } = prototype;
    const full = vi.spyOn(prototype, 'write').mockImplementation(function (this: unknown, ...args) {
      if (Number(args[3]) < 60_000) return write.apply(this, args);
      return Promise.reject(
        Object.assign(new Error('ENOSPC: no space left on device, write'), { code: 'ENOSPC' }),
      );
    });
    expect(await refusalOf(pull())).toMatch(/got ENOSPC: .*; make room, .*; what has come is kept$/);
    expectNothingTrusted();
    full.mockRestore();
    const kept = statSync(partial()).size;
    expect(kept).toBeGreaterThan(0);
    expectWhole((await pull()).folder);
    expect(rangesAsked().at(-1)).toBe(`cdn bytes=${kept}-`);
  });

  it('no hub at all', async () => {
    await each.fake.close();
    expect(await refusalOf(pull())).toMatch(
      /^owner\/model: no connection with 127\.0\.0\.1:\d+ \(ECONNREFUSED\), 3 times in a row/,
    );
  });
});

describe('stopping', () => {
  it('leaves a part that the next run continues', async () => {
    const stopper = new AbortController();
    const reason = new Error('stopped');
    each.fake.fault(CDN_WEIGHTS, (_request, response) => {
      response.writeHead(200, { 'Content-Length': WEIGHTS.length });
      response.write(WEIGHTS.subarray(0, 90_000));
    });
    const onProgress = ({ done }: ProgressEvent) => {
      if (done >= 90_000 + 3_027) stopper.abort(reason);
    };
    await expect(pull({ onProgress, signal: stopper.signal })).rejects.toBe(reason);
    expectNothingTrusted();
    expect(statSync(partial()).size).toBe(90_000);
    expectWhole((await pull()).folder);
    expect(rangesAsked().at(-1)).toBe('cdn bytes=90000-');
  });
});

describe('two at once', () => {
  it('the second waits, says so, and fetches nothing again', async () => {
    let release = () => {};
    each.fake.fault(CDN_WEIGHTS, (_request, _response, pass) => {
      release = pass;
    });
    const notes: string[] = [];
    const first = pull();
    await vi.waitUntil(() => each.requested('cdn').some((url) => url.includes('model.safetensors')));
    each.hub = { ...each.hub, wait: async () => void (await new Promise((done) => setTimeout(done, 20))) };
    const second = pull({ onNote: (text) => notes.push(text) });
    await vi.waitUntil(() => notes.length > 0);
    release();
    expectWhole((await first).folder);
    expect((await second).fetchedBytes).toBe(0);
    expect(notes).toEqual(['owner/model: another process is downloading it; waiting']);
    expect(each.requested('cdn').filter((url) => url.includes('model.safetensors'))).toHaveLength(1);
  });

  it('a lock whose owner was killed is taken over', async () => {
    const lock = path.join(each.hub.cache, '.locks/models--owner--model/fusion-vl.lock');
    mkdirSync(lock, { recursive: true });
    const longAgo = new Date(Date.now() - 60_000);
    utimesSync(lock, longAgo, longAgo);
    expectWhole((await pull()).folder);
    expect(each.pauses).toEqual([]);
    expect(existsSync(lock)).toBe(false);
  });
});
