/**
 * `image_url` → an image file: of a data URI, or of a web address where that is allowed. Nothing else is ever opened.
 * Knows nothing of pixels.
 */
import { ApiError } from './apiError.ts';
import { fetchImage, type RemoteImageRules } from './remoteImage.ts';

export interface ImageByteLimits {
  /** The most bytes of an image file. */
  readonly maxBytes: number;
  /** How images of the web are fetched; undefined refuses them. */
  readonly remote: RemoteImageRules | undefined;
}

const DATA_URI = /^data:image\/[\w.+-]{1,64};base64,/i;

/**
 * The bytes that `url` names, or the base64 that it holds: decoding it takes a while, which is not for this thread.
 *
 * @throws ApiError 400 for a kind of address that is not served and more bytes than allowed; as `fetchImage` for web
 * addresses.
 */
export async function imageBytes(
  url: string,
  limits: ImageByteLimits,
  signal: AbortSignal,
): Promise<Uint8Array | string> {
  if (/^data:/i.test(url)) return fromDataUri(url, limits.maxBytes);
  if (!/^https?:/i.test(url)) {
    throw refusal('expected a data URI (data:image/png;base64,…) or an http(s) address, got neither');
  }
  if (limits.remote === undefined) {
    throw refusal('web addresses are not fetched here; send a data URI, or start with --allow-remote-images');
  }
  return fetchImage(url, limits.remote, signal);
}

function fromDataUri(uri: string, maxBytes: number): string {
  const head = DATA_URI.exec(uri.slice(0, 100))?.[0];
  if (head === undefined) throw refusal('expected data:image/…;base64,…, got another data URI');
  const base64 = uri.slice(head.length);
  if (base64.length * 0.75 > maxBytes + 2)
    throw refusal(`expected an image of at most ${maxBytes} bytes, got more`);
  return base64;
}

const refusal = (message: string) =>
  new ApiError(400, `image_url: ${message}`, { code: 'invalid_image_url' });
