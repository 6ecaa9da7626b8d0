/**
 * What the hub says of a model: its commit and its files.
 *
 * Knows nothing of the disk. Source: `/api/models/ID/revision/REVISION?blobs=true`, and the headers of
 * `/ID/resolve/COMMIT/FILE` (`X-Linked-Etag`, `X-Linked-Size`, `ETag`).
 */
import { UserError } from '../../common/errors.ts';
import { isRecord, kindOf, parseJsonObject } from '../jsonText.ts';
import { RefusedError, type Retries, request, retrying } from './http.ts';
import type { Hub } from './hub.ts';
import { COMMIT, type HubId, repositoryOf, showId } from './ids.ts';
import type { HubFile, ListedFile } from './listing.ts';
import { refusal } from './refusal.ts';

export type ModelInfo = {
  readonly commit: string;
  /** All files of the commit. */
  readonly files: readonly ListedFile[];
};

/** Where a file's content is. */
export function fileUrl({ endpoint }: Hub, id: HubId, commit: string, file: string): string {
  return `${endpoint}/${repositoryOf(id)}/resolve/${commit}/${file.split('/').map(encodeURIComponent).join('/')}`;
}

/** Asks for a model's commit and files. Throws `UserError` where it is not there, not for everyone, or no hub is. */
export async function modelInfo(hub: Hub, id: HubId, retries: Retries): Promise<ModelInfo> {
  const revision = encodeURIComponent(id.revision);
  const url = `${hub.endpoint}/api/models/${repositoryOf(id)}/revision/${revision}?blobs=true`;
  const json = await getJson(hub, url, showId(id), retries).catch(async (error: unknown) => {
    throw error instanceof RefusedError ? await refusal(hub, id, error, retries.signal) : error;
  });
  return readInfo(json, url);
}

async function getJson(hub: Hub, url: string, where: string, retries: Retries) {
  const { signal } = retries;
  const read = (response: Response) => response.arrayBuffer();
  const body = await retrying(hub, where, retries, () => request(hub, { url, signal }, read));
  return parseJsonObject(new Uint8Array(body), url);
}

function readInfo({ sha, siblings }: Record<string, unknown>, where: string): ModelInfo {
  if (typeof sha !== 'string' || !COMMIT.test(sha)) {
    throw new UserError(`${where}: sha: expected a commit of 40 hexadecimal digits, got ${kindOf(sha)}`);
  }
  if (!Array.isArray(siblings)) {
    throw new UserError(`${where}: siblings: expected a list of files, got ${kindOf(siblings)}`);
  }
  return { commit: sha, files: siblings.map((entry) => readSibling(entry, where)) };
}

function readSibling(entry: unknown, where: string): ListedFile {
  const { rfilename, size, blobId, lfs } = isRecord(entry) ? entry : {};
  if (typeof rfilename !== 'string') {
    throw new UserError(`${where}: siblings: expected objects with rfilename, got ${kindOf(entry)}`);
  }
  const large = isRecord(lfs) ? lfs : {};
  return {
    path: rfilename,
    size: lengthOf(large.size ?? size),
    etag: blobName(large.sha256 ?? blobId),
    blobId: blobName(blobId),
  };
}

/** A listed file with its length and its blob's name, asked for where the list lacks them. Throws `UserError`. */
export async function describeFile(
  hub: Hub,
  id: HubId,
  commit: string,
  { path, size, etag, blobId }: ListedFile,
  retries: Retries,
): Promise<HubFile> {
  if (size !== undefined && etag !== undefined) return { path, size, etag, blobId };
  const { signal } = retries;
  const url = fileUrl(hub, id, commit, path);
  const read = async ({ headers }: Response) => headers;
  const action = () => request(hub, { url, method: 'HEAD', signal }, read);
  const headers = await retrying(hub, `${showId(id)}: ${path}`, retries, action).catch(
    async (error: unknown) => {
      throw error instanceof RefusedError ? await refusal(hub, id, error, signal, path) : error;
    },
  );
  const length = lengthOf(Number(headers.get('x-linked-size') ?? headers.get('content-length') ?? undefined));
  const name = blobName(
    (headers.get('x-linked-etag') ?? headers.get('etag'))?.replace(/^(?:W\/)?"(.*)"$/, '$1'),
  );
  if (length !== undefined && name !== undefined) return { path, size: length, etag: name };
  throw new UserError(
    `${url}: expected the headers ETag and Content-Length, got ${[...headers.keys()].join(', ')}`,
  );
}

function lengthOf(value: unknown): number | undefined {
  return typeof value === 'number' && Number.isSafeInteger(value) && value >= 0 ? value : undefined;
}

/** It becomes a file's name. */
function blobName(value: unknown): string | undefined {
  return typeof value === 'string' && /^\w[\w.-]*$/.test(value) ? value : undefined;
}
