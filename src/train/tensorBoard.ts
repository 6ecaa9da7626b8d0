/**
 * TensorBoard event files: scalars as records of the TFRecord framing, each an Event message.
 *
 * Knows nothing of what the scalars mean. Every start of a run opens a file of its own; TensorBoard reads all files
 * of a folder as one run. Source: tensorflow's record_writer.cc, event.proto and summary.proto; RFC 3720 (crc32c).
 */
import { type FileHandle, mkdir, open } from 'node:fs/promises';
import { hostname } from 'node:os';
import path from 'node:path';
import { messageOf, UserError } from '../common/errors.ts';
import { MessageWriter } from '../onnx/protobuf.ts';

export interface EventFileOptions {
  /** The last step already done by earlier starts: what they logged after it is hidden by TensorBoard. */
  readonly resumedStep?: number;
  /** A clock in seconds since 1970. */
  readonly now?: () => number;
  readonly host?: string;
}

/** An open event file; one writer at a time. */
export interface EventFile {
  readonly path: string;
  /** Appends one event with all `values` (tag → number, kept as float32) at `step`. */
  scalars(step: number, values: Readonly<Record<string, number>>): Promise<void>;
  /** Appends a text, shown by TensorBoard as Markdown: a configuration, a note. */
  text(step: number, tag: string, markdown: string): Promise<void>;
  close(): Promise<void>;
}

/** Field numbers of event.proto, summary.proto and tensor.proto. */
const EVENT = { wallTime: 1, step: 2, fileVersion: 3, summary: 5, sessionLog: 7 } as const;
const VALUE = { tag: 1, simpleValue: 2, tensor: 8, metadata: 9 } as const;
const TENSOR = { dtype: 1, shape: 2, stringValue: 8 } as const;
const SUMMARY_VALUE = 1;
const PLUGIN_DATA = 1;
const PLUGIN_NAME = 1;
const SESSION_STATUS = 1;
const SESSION_START = 1;
const DT_STRING = 7;

/** Tells apart the files one process opens within a second. */
let opened = 0;

/**
 * Creates `events.out.tfevents.<seconds>.<host>.<pid>.<n>` in `folder` (made where missing) and writes its
 * version record. Throws `UserError` where the disk refuses.
 */
export async function openEventFile(folder: string, options: EventFileOptions = {}): Promise<EventFile> {
  const { resumedStep = 0, now = () => Date.now() / 1000, host = hostname() } = options;
  const seconds = String(Math.floor(now())).padStart(10, '0');
  // A host's name comes from outside and must not lead out of the folder.
  const safeHost = host.replace(/[^\w.-]/g, '_');
  const file = path.join(folder, `events.out.tfevents.${seconds}.${safeHost}.${process.pid}.${opened++}`);
  await onDisk(file, mkdir(folder, { recursive: true }));
  const handle = await onDisk(file, open(file, 'ax'));
  const append = (step: number, write: (event: MessageWriter) => void) =>
    appendEvent(handle, file, now(), step, write);
  const summary = (step: number, write: (value: MessageWriter) => void) =>
    append(step, (event) => event.message(EVENT.summary, write));

  await append(resumedStep, (event) => event.string(EVENT.fileVersion, 'brain.Event:2'));
  if (resumedStep > 0) {
    // TensorBoard drops events of earlier files from the step of a session's start on.
    await append(resumedStep + 1, (event) =>
      event.message(EVENT.sessionLog, (log) => log.int(SESSION_STATUS, SESSION_START)),
    );
  }
  return {
    path: file,
    scalars: (step, values) =>
      summary(step, (message) => {
        for (const [tag, value] of Object.entries(values)) writeScalar(message, tag, value);
      }),
    text: (step, tag, markdown) => summary(step, (message) => writeText(message, tag, markdown)),
    close: () => onDisk(file, handle.close()),
  };
}

async function appendEvent(
  handle: FileHandle,
  file: string,
  wallTime: number,
  step: number,
  write: (event: MessageWriter) => void,
): Promise<void> {
  const event = new MessageWriter().double(EVENT.wallTime, wallTime).int(EVENT.step, step);
  write(event);
  await onDisk(file, handle.appendFile(frameRecord(event.finish())));
}

function writeScalar(summary: MessageWriter, tag: string, value: number): void {
  summary.message(SUMMARY_VALUE, (message) => message.string(VALUE.tag, tag).float(VALUE.simpleValue, value));
}

/** The text plugin's form: a scalar string tensor. */
function writeText(summary: MessageWriter, tag: string, text: string): void {
  summary.message(SUMMARY_VALUE, (message) =>
    message
      .string(VALUE.tag, tag)
      .message(VALUE.tensor, (tensor) =>
        tensor
          .int(TENSOR.dtype, DT_STRING)
          .message(TENSOR.shape, () => {})
          .string(TENSOR.stringValue, text),
      )
      .message(VALUE.metadata, (metadata) =>
        metadata.message(PLUGIN_DATA, (plugin) => plugin.string(PLUGIN_NAME, 'text')),
      ),
  );
}

/** `data` as one TFRecord: length (u64), its masked crc, data, its masked crc; all little-endian. */
export function frameRecord(data: Uint8Array): Uint8Array {
  const record = new Uint8Array(8 + 4 + data.length + 4);
  const view = new DataView(record.buffer);
  view.setBigUint64(0, BigInt(data.length), true);
  view.setUint32(8, maskedCrc(record.subarray(0, 8)), true);
  record.set(data, 12);
  view.setUint32(12 + data.length, maskedCrc(data), true);
  return record;
}

/** A crc of data that holds crcs is weak, so the format stores them rotated and shifted. */
function maskedCrc(bytes: Uint8Array): number {
  const crc = crc32c(bytes);
  return (((crc >>> 15) | (crc << 17)) + 0xa282ead8) >>> 0;
}

/** Castagnoli's polynomial 0x1edc6f41, bits reversed. */
const POLYNOMIAL = 0x82f63b78;
const TABLE = Uint32Array.from({ length: 256 }, (_, byte) => {
  let crc = byte;
  for (let bit = 0; bit < 8; bit++) crc = crc & 1 ? (crc >>> 1) ^ POLYNOMIAL : crc >>> 1;
  return crc;
});

/** The crc32c of `bytes`, an unsigned 32-bit integer. */
export function crc32c(bytes: Uint8Array): number {
  let crc = 0xffffffff;
  for (const byte of bytes) crc = (TABLE[(crc ^ byte) & 255] ?? 0) ^ (crc >>> 8);
  return (crc ^ 0xffffffff) >>> 0;
}

/** A file-system failure as a `UserError` naming the file. */
async function onDisk<T>(file: string, action: Promise<T>): Promise<T> {
  return action.catch((error: unknown) => {
    throw new UserError(`${file}: ${messageOf(error)}`);
  });
}
