/**
 * A PyTorch file (`.bin`, `.pt`) of named tensors, as `torch.save(state_dict)` writes it: a ZIP with a pickle that
 * describes the tensors and one stored entry for each storage. Nothing in it is executed.
 *
 * Knows nothing of models. Memory: the description (bounded) on opening, then one tensor at a time.
 * Source: `torch/serialization.py`, format of PyTorch 1.6 and later.
 */
import { UserError } from '../common/errors.ts';
import { DTYPE_BYTES, type Dtype, toF32 } from '../common/numberFormats.ts';
import { readRange } from './safetensors.ts';
import { describe, isKind, type PickleValue, readPickle, type TorchView } from './torchPickle.ts';
import { openZip, type ZipEntry, zipSize } from './torchZip.ts';

/** One tensor of the file, checked: it lies within its storage, and that within the file. */
export type TorchTensor = {
  readonly dtype: Dtype;
  readonly shape: readonly number[];
  /** In elements. */
  readonly strides: readonly number[];
  /** Absolute offset of the first element in the file. */
  readonly begin: number;
  /** Bytes from the first element to the end of the last; of contiguous tensors, their size. */
  readonly byteLength: number;
  /** Whether the bytes from `begin` on are the tensor, row-major. */
  readonly contiguous: boolean;
};

/** An opened file. No handle stays open. */
export type TorchFile = {
  readonly path: string;
  readonly tensors: ReadonlyMap<string, TorchTensor>;
  /** The tensor as float32, row-major. Throws `UserError` for an unknown name or an integer dtype. */
  readonly readF32: (name: string) => Promise<Float32Array>;
};

/** The description of the largest models takes well below this. */
const MAX_PICKLE_BYTES = 2 ** 24;

/**
 * Opens the PyTorch file at `filePath` and checks every tensor's place. Throws `UserError` for a file that is
 * incomplete, of the format before PyTorch 1.6, or holds anything but tensors by name.
 */
export async function openTorchFile(filePath: string): Promise<TorchFile> {
  const size = await zipSize(filePath);
  await checkStart(filePath);
  const entries = await openZip(filePath, size);
  const root = findRoot(filePath, entries);
  await checkByteOrder(filePath, entries.get(`${root}byteorder`));
  const pickle = entries.get(`${root}data.pkl`) ?? { begin: 0, size: 0 };
  if (pickle.size > MAX_PICKLE_BYTES) {
    throw wrong(`${filePath}: data.pkl`, `at most ${MAX_PICKLE_BYTES} bytes`, `${pickle.size}`);
  }
  const where = `${filePath}: data.pkl`;
  const value = readPickle(await readRange(filePath, pickle.begin, pickle.size), where);
  const tensors = new Map<string, TorchTensor>();
  for (const [name, view] of namedTensors(value, where)) {
    const entry = entries.get(`${root}data/${view.storage.key}`);
    tensors.set(name, place(view, entry, `${filePath}: tensor ${name}`));
  }
  return { path: filePath, tensors, readF32: (name) => readF32(filePath, tensors, name) };
}

/** Says what files that are no ZIP are, where that is known. */
async function checkStart(filePath: string): Promise<void> {
  const start = Buffer.from(await readRange(filePath, 0, 8)).toString('latin1');
  if (start.startsWith('PK\x03\x04')) return;
  const got = start.startsWith('\x80')
    ? 'a pickle of the format before PyTorch 1.6; load it there and torch.save it again'
    : start === 'version '
      ? 'a Git LFS pointer to one; fetch it with `git lfs pull`'
      : 'something else';
  throw wrong(filePath, 'a PyTorch file (a ZIP with data.pkl)', got);
}

/** The folder all entries lie in, with its slash: the name the file was saved under, or `archive/`. */
function findRoot(filePath: string, entries: ReadonlyMap<string, ZipEntry>): string {
  const roots = [...entries.keys()].flatMap((name) => /^([^/]+\/)data\.pkl$/.exec(name)?.[1] ?? []);
  const [root] = roots;
  if (root !== undefined && roots.length === 1) return root;
  throw wrong(filePath, 'a PyTorch file with one data.pkl', `a ZIP with ${roots.length}`);
}

async function checkByteOrder(filePath: string, entry: ZipEntry | undefined): Promise<void> {
  if (entry === undefined) return;
  const order = Buffer.from(await readRange(filePath, entry.begin, Math.min(entry.size, 16))).toString(
    'latin1',
  );
  if (order !== 'little') throw wrong(filePath, 'byte order little', JSON.stringify(order));
}

function* namedTensors(value: PickleValue, where: string): Generator<[string, TorchView]> {
  if (!isKind(value, 'dict')) throw wrong(where, 'a dict of tensors by name', describe(value));
  for (const [name, tensor] of value.entries) {
    if (typeof name !== 'string') throw wrong(where, 'names of tensors', describe(name));
    if (!isKind(tensor, 'tensor'))
      throw wrong(`${where}: ${name.slice(0, 120)}`, 'a tensor', describe(tensor));
    yield [name, tensor];
  }
}

function place(view: TorchView, entry: ZipEntry | undefined, where: string): TorchTensor {
  const { storage, offset, shape, strides } = view;
  const { dtype, key } = storage;
  const bytes = DTYPE_BYTES[dtype];
  if (entry === undefined) throw wrong(where, `a storage data/${key}`, 'none in the file');
  if (entry.size !== storage.elements * bytes) {
    const expected = `${storage.elements} elements of ${dtype} in data/${key}`;
    throw wrong(where, expected, `${entry.size} bytes (a damaged file?)`);
  }
  const count = shape.reduce((product, dim) => product * dim, 1);
  if (count > storage.elements) {
    // Repeated elements (stride 0) would let a small file fill the memory.
    throw wrong(
      where,
      `at most the ${storage.elements} elements of its storage`,
      `shape [${shape.join(', ')}]`,
    );
  }
  const last = shape.reduce((sum, dim, i) => sum + (dim - 1) * (strides[i] ?? 0), 0);
  const span = count === 0 ? 0 : last + 1;
  if (offset + span > storage.elements) {
    const got = `offset ${offset}, shape [${shape.join(', ')}], strides [${strides.join(', ')}]`;
    throw wrong(where, `elements within the ${storage.elements} of its storage`, got);
  }
  const contiguous = count === 0 || isContiguous(shape, strides);
  return { dtype, shape, strides, begin: entry.begin + offset * bytes, byteLength: span * bytes, contiguous };
}

/** Strides of dimensions of size 1 do not matter. */
function isContiguous(shape: readonly number[], strides: readonly number[]): boolean {
  let expected = 1;
  for (let i = shape.length - 1; i >= 0; i--) {
    const dim = shape[i] ?? 1;
    if (dim !== 1 && strides[i] !== expected) return false;
    expected *= dim;
  }
  return true;
}

async function readF32(
  filePath: string,
  tensors: ReadonlyMap<string, TorchTensor>,
  name: string,
): Promise<Float32Array> {
  const tensor = tensors.get(name);
  if (tensor === undefined) {
    throw wrong(filePath, `tensor ${name}`, `none of that name among ${tensors.size}`);
  }
  const bytes = await readRange(filePath, tensor.begin, tensor.byteLength);
  const span = toF32(tensor.dtype, bytes, `${filePath}: tensor ${name}`);
  return tensor.contiguous ? span : gather(span, tensor.shape, tensor.strides);
}

/** The elements of a strided view in row-major order. */
function gather(span: Float32Array, shape: readonly number[], strides: readonly number[]): Float32Array {
  const out = new Float32Array(shape.reduce((product, dim) => product * dim, 1));
  const index = shape.map(() => 0);
  let from = 0;
  for (let i = 0; i < out.length; i++) {
    out[i] = span[from] ?? 0;
    for (let d = shape.length - 1; d >= 0; d--) {
      const next = (index[d] ?? 0) + 1;
      const stride = strides[d] ?? 0;
      from += stride;
      index[d] = next;
      if (next < (shape[d] ?? 0)) break;
      from -= next * stride;
      index[d] = 0;
    }
  }
  return out;
}

function wrong(where: string, expected: string, got: string): UserError {
  return new UserError(`${where}: expected ${expected}, got ${got}`);
}
