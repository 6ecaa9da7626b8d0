import { mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { UserError } from '../common/errors.ts';
import { crc32c, frameRecord, openEventFile } from './tensorBoard.ts';

let dir = '';
beforeAll(async () => {
  dir = await mkdtemp(path.join(tmpdir(), 'events-'));
});
afterAll(() => rm(dir, { recursive: true, force: true }));

/** Bit by bit, sharing nothing with the table of the writer. */
function slowCrc(bytes: Uint8Array): number {
  let crc = -1;
  for (const byte of bytes) {
    for (let bit = 0; bit < 8; bit++) {
      const low = (crc ^ (byte >> bit)) & 1;
      crc = (crc >>> 1) ^ (low ? 0x82f63b78 : 0);
    }
  }
  return ~crc >>> 0;
}

/** The unmasked checksum of a stored one, by TensorFlow's `Unmask`. */
function unmask(masked: number): number {
  const rotated = (masked - 0xa282ead8) >>> 0;
  return ((rotated >>> 17) | (rotated << 15)) >>> 0;
}

function records(file: Buffer): Buffer[] {
  const out: Buffer[] = [];
  for (let at = 0; at < file.length; ) {
    const length = Number(file.readBigUInt64LE(at));
    const data = file.subarray(at + 12, at + 12 + length);
    expect(unmask(file.readUInt32LE(at + 8))).toBe(slowCrc(file.subarray(at, at + 8)));
    expect(unmask(file.readUInt32LE(at + 12 + length))).toBe(slowCrc(data));
    out.push(data);
    at += 16 + length;
  }
  return out;
}

type Field = { field: number; value: number | Buffer };

/** The fields of a protobuf message, in order. */
function fields(bytes: Buffer): Field[] {
  const out: Field[] = [];
  let at = 0;
  const varint = () => {
    let value = 0;
    for (let scale = 1; ; scale *= 128) {
      const byte = bytes[at++]!;
      value += (byte & 127) * scale;
      if (byte < 128) return value;
    }
  };
  while (at < bytes.length) {
    const tag = varint();
    const field = tag >>> 3;
    if ((tag & 7) === 0) out.push({ field, value: varint() });
    else if ((tag & 7) === 1) {
      out.push({ field, value: bytes.readDoubleLE(at) });
      at += 8;
    } else if ((tag & 7) === 5) {
      out.push({ field, value: bytes.readFloatLE(at) });
      at += 4;
    } else if ((tag & 7) === 2) {
      const length = varint();
      out.push({ field, value: bytes.subarray(at, at + length) });
      at += length;
    } else throw new Error(`wire type ${tag & 7}`);
  }
  return out;
}

const one = (bytes: Buffer, field: number) => fields(bytes).find((entry) => entry.field === field)?.value;
const inner = (bytes: Buffer, ...at: number[]) =>
  at.reduce((message, field) => one(message, field) as Buffer, bytes);

async function eventsOf(file: string): Promise<Buffer[]> {
  return records(await readFile(file));
}

describe('crc32c', () => {
  it('gives the published values', () => {
    const text = (value: string) => crc32c(Buffer.from(value));
    expect(text('123456789').toString(16)).toBe('e3069283');
    expect(text('')).toBe(0);
    // RFC 3720, B.4: 32 bytes of zeros, of ones, ascending.
    expect(crc32c(new Uint8Array(32)).toString(16)).toBe('8a9136aa');
    expect(crc32c(new Uint8Array(32).fill(255)).toString(16)).toBe('62a8ab43');
    expect(crc32c(Uint8Array.from({ length: 32 }, (_, i) => i)).toString(16)).toBe('46dd794e');
  });
});

describe('frameRecord', () => {
  it('frames as TFRecord files do', () => {
    const data = Buffer.from('abc');
    expect(records(Buffer.concat([frameRecord(data), frameRecord(new Uint8Array())]))).toEqual([
      data,
      Buffer.alloc(0),
    ]);
    // The head of an 8-byte-length frame of 24 bytes, as TensorBoard's own files begin.
    expect(Buffer.from(frameRecord(new Uint8Array(24))).toString('hex', 0, 12)).toBe(
      '1800000000000000a37f4b22',
    );
  });
});

describe('openEventFile', () => {
  it('writes a version record, then scalars at their steps', async () => {
    let clock = 1_700_000_000.25;
    const events = await openEventFile(path.join(dir, 'a', 'b'), { now: () => clock, host: '../my host' });
    clock += 1;
    await events.scalars(300, { 'train/loss': 1.5, 'train/grad_norm': Number.NaN });
    await events.close();
    const name = path.basename(events.path);
    expect(name).toMatch(/^events\.out\.tfevents\.1700000000\.\.\._my_host\.\d+\.\d+$/);
    expect(await readdir(path.join(dir, 'a', 'b'))).toEqual([name]);

    const [version, scalars, ...more] = await eventsOf(events.path);
    expect(more).toEqual([]);
    expect(one(version!, 1)).toBe(1_700_000_000.25);
    expect(String(one(version!, 3))).toBe('brain.Event:2');
    expect(one(scalars!, 1)).toBe(1_700_000_001.25);
    expect(one(scalars!, 2)).toBe(300);
    const values = fields(inner(scalars!, 5)).map(({ value }) => value as Buffer);
    expect(values.map((value) => [String(one(value, 1)), one(value, 2)])).toEqual([
      ['train/loss', 1.5],
      ['train/grad_norm', Number.NaN],
    ]);
  });

  it('writes text for the text plugin', async () => {
    const events = await openEventFile(dir);
    await events.text(0, 'config', '# é');
    await events.close();
    const value = inner((await eventsOf(events.path))[1]!, 5, 1);
    expect(String(inner(value, 8, 8))).toBe('# é');
    expect(one(inner(value, 8), 1)).toBe(7);
    expect(String(inner(value, 9, 1, 1))).toBe('text');
  });

  it('opens a file of its own on resume and says from which step it counts', async () => {
    const folder = path.join(dir, 'resumed');
    const now = () => 5;
    const first = await openEventFile(folder, { now });
    const second = await openEventFile(folder, { now, resumedStep: 20 });
    await Promise.all([first.close(), second.close()]);
    expect(await readdir(folder)).toHaveLength(2);
    const [, session] = await eventsOf(second.path);
    expect(one(session!, 2)).toBe(21);
    expect(one(inner(session!, 7), 1)).toBe(1);
    expect(await eventsOf(first.path)).toHaveLength(1);
  });

  it('names the file where the disk refuses', async () => {
    const blocked = path.join(dir, 'a file');
    await writeFile(blocked, '');
    await expect(openEventFile(blocked)).rejects.toThrow(UserError);
    await expect(openEventFile(blocked)).rejects.toThrow(`${blocked}/events.out.tfevents.`);
  });
});
