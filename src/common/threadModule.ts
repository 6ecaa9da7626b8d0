/**
 * The URL under which a module of this project starts as a worker thread, compiled or as TypeScript. Knows nothing
 * of what the thread does.
 */
import path from 'node:path';
import { fileURLToPath } from 'node:url';

/**
 * The module `name` (without extension) beside the module `from` (`import.meta.url`). Start it with
 * `execArgv: []`: TypeScript needs a loader, which threads do not inherit.
 */
export function threadModule(from: string, name: string): URL {
  const extension = path.extname(fileURLToPath(from));
  const url = new URL(`./${name}${extension}`, from);
  if (extension !== '.ts') return url;
  const [loader, file] = [import.meta.resolve('tsx/esm/api'), url.href].map((x) => JSON.stringify(x));
  const script = `import { register } from ${loader}; register(); await import(${file});`;
  return new URL(`data:text/javascript,${encodeURIComponent(script)}`);
}
