/**
 * A pickle reader that runs nothing: the few opcodes and the few globals a saved state dict of tensors needs,
 * each with a fixed meaning here. Every other opcode and every other global is refused by name.
 *
 * Knows nothing of files or of tensors' bytes. Source: Python's `pickletools` (opcodes), `torch._utils` (what the
 * globals mean) and `torch/serialization.py` (persistent ids).
 */
import { UserError } from '../common/errors.ts';
import type { Dtype } from '../common/numberFormats.ts';

/** A storage as its persistent id describes it: `elements` of `dtype` in the entry `data/{key}`. */
export type TorchStorage = {
  readonly kind: 'storage';
  readonly dtype: Dtype;
  readonly key: string;
  readonly elements: number;
};

/** A view of a storage; offset and strides count elements. */
export type TorchView = {
  readonly kind: 'tensor';
  readonly storage: TorchStorage;
  readonly offset: number;
  readonly shape: readonly number[];
  readonly strides: readonly number[];
};

type Tuple = { readonly kind: 'tuple'; readonly items: readonly PickleValue[] };
type Dict = { readonly kind: 'dict'; readonly entries: Map<PickleValue, PickleValue> };
type Global = { readonly kind: 'global'; readonly name: string };
/** What a pickle of this subset holds; Python's None is null. */
export type PickleValue = null | boolean | number | string | Tuple | Dict | Global | TorchStorage | TorchView;

const STORAGES: Readonly<Record<string, Dtype>> = {
  DoubleStorage: 'F64',
  FloatStorage: 'F32',
  HalfStorage: 'F16',
  BFloat16Storage: 'BF16',
  LongStorage: 'I64',
  IntStorage: 'I32',
  ShortStorage: 'I16',
  CharStorage: 'I8',
  ByteStorage: 'U8',
  BoolStorage: 'BOOL',
};

const ORDERED_DICT = 'collections.OrderedDict';
const REBUILD_TENSOR = 'torch._utils._rebuild_tensor_v2';
const REBUILD_PARAMETER = 'torch._utils._rebuild_parameter';
const FUNCTIONS: ReadonlySet<string> = new Set([ORDERED_DICT, REBUILD_TENSOR, REBUILD_PARAMETER]);
const MAX_DIMS = 64;

/** The state of the reader: the pickle machine's stack, its marks and its memo. */
type Machine = {
  readonly bytes: DataView;
  readonly where: string;
  at: number;
  readonly stack: PickleValue[];
  readonly marks: number[];
  readonly memo: Map<number, PickleValue>;
};

/**
 * The one value pickled in `bytes` (protocol 2). Throws `UserError` beginning with `where` for anything a state
 * dict of tensors does not need, naming the opcode and, where there is one, the global.
 */
export function readPickle(bytes: Uint8Array, where: string): PickleValue {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const machine: Machine = { bytes: view, where, at: 0, stack: [], marks: [], memo: new Map() };
  for (;;) {
    const at = machine.at;
    const code = uint(machine, 1);
    if (code === STOP) return pop(machine);
    const opcode = OPCODES[code];
    if (opcode === undefined) throw new UserError(`${where}: ${refusal(code)} at byte ${at}`);
    opcode(machine);
  }
}

const STOP = 0x2e;

/** What each accepted opcode does, by its byte. */
const OPCODES: Readonly<Record<number, (machine: Machine) => void>> = {
  128: protocol,
  40: (m) => m.marks.push(m.stack.length),
  78: (m) => m.stack.push(null),
  136: (m) => m.stack.push(true),
  137: (m) => m.stack.push(false),
  75: (m) => m.stack.push(uint(m, 1)),
  77: (m) => m.stack.push(uint(m, 2)),
  74: (m) => m.stack.push(uint(m, 4) | 0),
  138: (m) => m.stack.push(longInteger(m)),
  88: (m) => m.stack.push(text(m, uint(m, 4))),
  41: (m) => m.stack.push({ kind: 'tuple', items: [] }),
  133: (m) => m.stack.push({ kind: 'tuple', items: popMany(m, 1) }),
  134: (m) => m.stack.push({ kind: 'tuple', items: popMany(m, 2) }),
  135: (m) => m.stack.push({ kind: 'tuple', items: popMany(m, 3) }),
  116: (m) => m.stack.push({ kind: 'tuple', items: popToMark(m) }),
  125: (m) => m.stack.push({ kind: 'dict', entries: new Map() }),
  115: (m) => setItems(m, popMany(m, 2)),
  117: (m) => setItems(m, popToMark(m)),
  113: (m) => m.memo.set(uint(m, 1), top(m)),
  114: (m) => m.memo.set(uint(m, 4), top(m)),
  104: (m) => m.stack.push(remembered(m, uint(m, 1))),
  106: (m) => m.stack.push(remembered(m, uint(m, 4))),
  99: (m) => m.stack.push(global(m)),
  81: (m) => m.stack.push(storage(m, pop(m))),
  82: reduce,
  98: build,
};

/** Names of opcodes one meets in other pickles, for errors only. */
const REFUSED_NAMES = [
  '48 POP 49 POP_MARK 50 DUP 66 BINBYTES 67 SHORT_BINBYTES 70 FLOAT 71 BINFLOAT 73 INT 76 LONG 80 PERSID',
  '83 STRING 84 BINSTRING 85 SHORT_BINSTRING 86 UNICODE 93 EMPTY_LIST 97 APPEND 100 DICT 101 APPENDS 103 GET',
  '105 INST 108 LIST 111 OBJ 112 PUT 129 NEWOBJ 130 EXT1 131 EXT2 132 EXT4 139 LONG4 140 SHORT_BINUNICODE',
  '141 BINUNICODE8 142 BINBYTES8 143 EMPTY_SET 144 ADDITEMS 145 FROZENSET 146 NEWOBJ_EX 147 STACK_GLOBAL',
  '148 MEMOIZE 149 FRAME 150 BYTEARRAY8 151 NEXT_BUFFER 152 READONLY_BUFFER',
].join(' ');

function refusal(code: number): string {
  const name = new RegExp(`\\b${code} (\\w+)`).exec(REFUSED_NAMES)?.[1] ?? 'unknown';
  return `expected only what a state dict of tensors needs, got opcode ${name} (0x${code.toString(16)})`;
}

function protocol(m: Machine): void {
  const version = uint(m, 1);
  if (version !== 2) throw wrong(m, 'pickle protocol 2, as torch.save writes by default', `${version}`);
}

function need(m: Machine, count: number): number {
  const at = m.at;
  if (at + count > m.bytes.byteLength) throw wrong(m, 'a whole pickle', `one that ends at byte ${at}`);
  m.at += count;
  return at;
}

function uint(m: Machine, size: 1 | 2 | 4): number {
  const at = need(m, size);
  if (size === 1) return m.bytes.getUint8(at);
  return size === 2 ? m.bytes.getUint16(at, true) : m.bytes.getUint32(at, true);
}

/** LONG1: a byte of length, then two's complement; lengths and sizes above 2^31 come so. */
function longInteger(m: Machine): number {
  const size = uint(m, 1);
  const at = need(m, size);
  let value = 0n;
  for (let i = size - 1; i >= 0; i--) value = (value << 8n) | BigInt(m.bytes.getUint8(at + i));
  const integer = Number(BigInt.asIntN(Math.max(1, 8 * size), value));
  if (!Number.isSafeInteger(integer)) throw wrong(m, 'integers below 2^53', `${integer}`);
  return integer;
}

function text(m: Machine, size: number): string {
  const at = need(m, size);
  return Buffer.from(m.bytes.buffer, m.bytes.byteOffset + at, size).toString('utf8');
}

/** The lowest place values may be taken from: nothing below the last mark. */
function floor(m: Machine): number {
  return m.marks.at(-1) ?? 0;
}

function popMany(m: Machine, count: number): PickleValue[] {
  if (m.stack.length - count < floor(m)) throw wrong(m, `${count} values on the stack`, 'fewer');
  return m.stack.splice(m.stack.length - count);
}

function pop(m: Machine): PickleValue {
  const [value = null] = popMany(m, 1);
  return value;
}

function top(m: Machine): PickleValue {
  const value = m.stack.at(-1);
  if (value === undefined || m.stack.length <= floor(m)) throw wrong(m, 'a value on the stack', 'none');
  return value;
}

function popToMark(m: Machine): PickleValue[] {
  const mark = m.marks.pop();
  if (mark === undefined) throw wrong(m, 'a mark on the stack', 'none');
  return m.stack.splice(mark);
}

function remembered(m: Machine, index: number): PickleValue {
  const value = m.memo.get(index);
  if (value === undefined) throw wrong(m, `a value remembered as ${index}`, 'none');
  return value;
}

function setItems(m: Machine, items: readonly PickleValue[]): void {
  const dict = top(m);
  if (!isKind(dict, 'dict')) throw wrong(m, 'a dict to put items in', describe(dict));
  if (items.length % 2 !== 0) throw wrong(m, 'a value for each key', 'a key without');
  for (let i = 0; i < items.length; i += 2) {
    const key = items[i] ?? null;
    if (dict.entries.has(key)) throw wrong(m, `one entry ${describe(key)}`, 'two');
    dict.entries.set(key, items[i + 1] ?? null);
  }
}

/** Two lines, module and name; nothing is looked up or imported. */
function global(m: Machine): Global {
  const name = `${line(m)}.${line(m)}`;
  const storageName = /^torch\.(\w+)$/.exec(name)?.[1] ?? '';
  if (FUNCTIONS.has(name) || Object.hasOwn(STORAGES, storageName)) return { kind: 'global', name };
  const shown = JSON.stringify(name).slice(0, 120);
  throw wrong(m, 'only tensors', `opcode GLOBAL with ${shown}, which is not loaded`);
}

function line(m: Machine): string {
  const begin = m.at;
  while (uint(m, 1) !== 0x0a);
  return Buffer.from(m.bytes.buffer, m.bytes.byteOffset + begin, m.at - 1 - begin).toString('utf8');
}

/** A persistent id: `('storage', torch.FloatStorage, key, location, elements)`. */
function storage(m: Machine, id: PickleValue): TorchStorage {
  const [tag, type, key, location, elements] = isKind(id, 'tuple') && id.items.length === 5 ? id.items : [];
  const dtype = isKind(type, 'global') ? STORAGES[type.name.slice('torch.'.length)] : undefined;
  const named = typeof key === 'string' && typeof location === 'string';
  if (tag !== 'storage' || dtype === undefined || !named || !isSize(elements)) {
    throw wrong(m, "opcode BINPERSID with ('storage', type, key, location, elements)", describe(id));
  }
  return { kind: 'storage', dtype, key, elements };
}

function reduce(m: Machine): void {
  const [callee = null, args = null] = popMany(m, 2);
  const name = isKind(callee, 'global') ? callee.name : '';
  if (!FUNCTIONS.has(name) || !isKind(args, 'tuple')) {
    throw wrong(m, 'opcode REDUCE of a function that rebuilds tensors', describe(callee));
  }
  if (name === ORDERED_DICT) {
    if (args.items.length > 0) throw wrong(m, `${ORDERED_DICT} without arguments`, describe(args));
    m.stack.push({ kind: 'dict', entries: new Map() });
  } else m.stack.push(name === REBUILD_TENSOR ? tensor(m, args.items) : parameter(m, args.items));
}

/** `_rebuild_tensor_v2(storage, offset, size, stride, requires_grad, hooks)`. */
function tensor(m: Machine, args: readonly PickleValue[]): TorchView {
  const [of, offset, size, stride] = args;
  const shape = sizesOf(size);
  const strides = sizesOf(stride);
  const whole = (args.length === 6 || args.length === 7) && isKind(of, 'storage') && isSize(offset);
  if (!whole || shape === undefined || strides?.length !== shape.length) {
    const expected = `${REBUILD_TENSOR} of a storage, an offset, sizes and as many strides`;
    throw wrong(m, expected, describe({ kind: 'tuple', items: args }));
  }
  return { kind: 'tensor', storage: of, offset, shape, strides };
}

/** `_rebuild_parameter(data, requires_grad, hooks)`. */
function parameter(m: Machine, args: readonly PickleValue[]): TorchView {
  const [data] = args;
  if (args.length !== 3 || !isKind(data, 'tensor')) {
    throw wrong(m, `${REBUILD_PARAMETER} of a tensor`, describe({ kind: 'tuple', items: args }));
  }
  return data;
}

/** `BUILD` gives an object attributes; a state dict has `_metadata`, which nothing here needs. */
function build(m: Machine): void {
  const [object = null, state = null] = popMany(m, 2);
  if (!isKind(object, 'dict') || !isKind(state, 'dict')) {
    throw wrong(m, 'opcode BUILD on a dict', describe(object));
  }
  m.stack.push(object);
}

function sizesOf(value: PickleValue | undefined): readonly number[] | undefined {
  if (!isKind(value, 'tuple') || value.items.length > MAX_DIMS) return undefined;
  return value.items.every(isSize) ? value.items : undefined;
}

function isSize(value: PickleValue | undefined): value is number {
  return typeof value === 'number' && value >= 0;
}

/** Whether `value` is an object of this kind. */
export function isKind<K extends Exclude<PickleValue, null | boolean | number | string>['kind']>(
  value: PickleValue | undefined,
  kind: K,
): value is Extract<PickleValue, { readonly kind: K }> {
  return typeof value === 'object' && value !== null && value.kind === kind;
}

/** A value for an error's "got", on one line; never descends, for values may be shared without end. */
export function describe(value: PickleValue): string {
  if (value === null) return 'None';
  if (typeof value !== 'object') return JSON.stringify(value).slice(0, 80);
  if (value.kind === 'global') return value.name;
  return value.kind === 'tuple' ? `a tuple of ${value.items.length}` : `a ${value.kind}`;
}

function wrong(m: Machine, expected: string, got: string): UserError {
  return new UserError(`${m.where}: expected ${expected}, got ${got} (before byte ${m.at})`);
}
