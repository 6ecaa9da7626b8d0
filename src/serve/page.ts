/**
 * The files of the web page, read once into memory: what is not in the folder when the server starts does not
 * exist. Knows nothing of what the page does.
 */
import { createHash } from 'node:crypto';
import { readdir, readFile } from 'node:fs/promises';
import path from 'node:path';
import { PAGE_POLICY } from './security.ts';

interface PageFile {
  readonly bytes: Buffer;
  readonly type: string;
  readonly etag: string;
  readonly cache: string;
}

/** Files by the path they are served under. */
export type Page = ReadonlyMap<string, PageFile>;

const TYPES: Readonly<Record<string, string>> = {
  '.html': 'text/html; charset=utf-8',
  '.js': 'text/javascript; charset=utf-8',
  '.css': 'text/css; charset=utf-8',
  '.json': 'application/json',
  '.webmanifest': 'application/manifest+json',
  '.svg': 'image/svg+xml',
  '.png': 'image/png',
  '.jpg': 'image/jpeg',
  '.webp': 'image/webp',
  '.ico': 'image/x-icon',
  '.woff2': 'font/woff2',
  '.txt': 'text/plain; charset=utf-8',
};

/** Names that carry a hash of the content, as Vite gives them. */
const HASHED = /-[\w-]{8}\.\w+$/;

/** Reads a page's folder; undefined where there is none. `index.html` is also served at `/`. */
export async function readPage(dir: string): Promise<Page | undefined> {
  const entries = await readdir(dir, { recursive: true, withFileTypes: true }).catch(() => undefined);
  if (entries === undefined) return undefined;
  const files = new Map<string, PageFile>();
  for (const entry of entries) {
    const type = TYPES[path.extname(entry.name)];
    if (!entry.isFile() || type === undefined) continue;
    const file = path.join(entry.parentPath, entry.name);
    const bytes = await readFile(file);
    const etag = `"${createHash('sha256').update(bytes).digest('base64url').slice(0, 22)}"`;
    const cache = HASHED.test(entry.name) ? 'public, max-age=31536000, immutable' : 'no-cache';
    files.set(`/${path.relative(dir, file).split(path.sep).join('/')}`, { bytes, type, etag, cache });
  }
  const index = files.get('/index.html');
  if (index !== undefined) files.set('/', index);
  return files;
}

/** A page that is one text. */
export function textPage(text: string): Page {
  const type = 'text/plain; charset=utf-8';
  return new Map([['/', { bytes: Buffer.from(text), type, etag: '"text"', cache: 'no-store' }]]);
}

/** A file of the page; undefined where there is none of that path. ifNoneMatch: the request's header. */
export function pageResponse(page: Page, at: string, ifNoneMatch: string | undefined): Response | undefined {
  const file = page.get(at);
  if (file === undefined) return undefined;
  const headers = {
    'Content-Type': file.type,
    ETag: file.etag,
    'Cache-Control': file.cache,
    'Content-Security-Policy': PAGE_POLICY,
  };
  const known = ifNoneMatch?.split(',').some((etag) => etag.trim().replace(/^W\//, '') === file.etag);
  if (known) return new Response(null, { status: 304, headers });
  return new Response(new Uint8Array(file.bytes), { headers });
}
