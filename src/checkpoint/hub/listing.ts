/**
 * The files of a model's repository: which of them a model needs, and how each is named and checked in the cache.
 *
 * Knows names and hashes, neither disk nor network. Source: the answers of `/api/models`, git's hash of a file, and
 * the files of Hugging Face checkpoints.
 */
import { createHash, type Hash } from 'node:crypto';
import { UserError } from '../../common/errors.ts';

/** One file of a repository at a commit. */
export type HubFile = {
  /** Within the repository, parts separated by `/`. */
  readonly path: string;
  /** In bytes. */
  readonly size: number;
  /**
   * The name of its blob in the cache: the SHA-256 of a file in LFS (64 digits), git's SHA-1 of any other (40), or,
   * where the hub gave neither, its ETag.
   */
  readonly etag: string;
  /** Git's SHA-1, of a file in LFS that of its pointer; where the hub gave it. */
  readonly blobId?: string | undefined;
};

/** A file as the list of a model has it; a mirror may leave out its length and what names its blob. */
export type ListedFile = Pick<HubFile, 'path' | 'blobId'> & {
  readonly size?: number | undefined;
  readonly etag?: string | undefined;
};

const WEIGHTS: readonly RegExp[] = [/\.safetensors$/, /^mm_projector\.bin$/];
const OTHERS: readonly RegExp[] = [
  /^(config|adapter_config|generation_config|preprocessor_config|special_tokens_map|added_tokens|vocab|cases)\.json$/,
  /^tokenizer[\w.-]*\.(json|model)$/,
  /^chat_template\.(jinja|json)$/,
  /^merges\.txt$/,
  /\.safetensors\.index\.json$/,
];

/** Whether a model needs the file: its configuration, tokenizer and weights, all at the top of the repository. */
export function isWanted(file: string): boolean {
  return !/[/\\:\0]/.test(file) && [...WEIGHTS, ...OTHERS].some((pattern) => pattern.test(file));
}

/** Whether the file holds tensors. */
export function isWeights(file: string): boolean {
  return WEIGHTS.some((pattern) => pattern.test(file));
}

/**
 * Those of `files` that a model needs. Throws `UserError` beginning with `where` for a repository without weights
 * that are read here.
 */
export function wantedFiles(files: readonly ListedFile[], where: string): readonly ListedFile[] {
  const wanted = files.filter(({ path }) => isWanted(path));
  if (wanted.some(({ path }) => isWeights(path))) return wanted;
  const other = files.find(({ path }) => /\.(bin|pth?|gguf|msgpack|h5|onnx)$/.test(path));
  const got =
    other === undefined ? `none among its ${files.length} files` : `only others, such as ${other.path}`;
  throw new UserError(`${where}: expected a model with safetensors weights, got ${got}`);
}

/** Whether an ETag is the hash of a file in LFS. */
export function isSha256(etag: string): boolean {
  return /^[0-9a-f]{64}$/.test(etag);
}

/** The running hash a file is checked with, or undefined where the hub gave none. */
export function startHash({ etag, size }: HubFile): Hash | undefined {
  if (isSha256(etag)) return createHash('sha256');
  // Git hashes a header with the length before the content.
  if (/^[0-9a-f]{40}$/.test(etag)) return createHash('sha1').update(`blob ${size}\0`);
  return undefined;
}
