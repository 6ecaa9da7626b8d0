/** Pages compiled and built: of small sources of their own, not of the real page (`test/webPage.test.ts`). */
import { mkdirSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { openPage } from './pageBuild.ts';

let root: string;
beforeEach(() => {
  root = mkdtempSync(join(tmpdir(), 'fusion-build-'));
  writeFileSync(join(root, 'package.json'), '{"type": "module"}');
});
afterEach(() => rmSync(root, { recursive: true }));

function write(name: string, text: string): void {
  mkdirSync(join(root, name, '..'), { recursive: true });
  writeFileSync(join(root, name), text);
}

function writeSources(text: string): void {
  write('web/vite.config.ts', 'export default { root: import.meta.dirname };');
  write('web/index.html', '<script type="module" src="./main.ts"></script>');
  write('web/main.ts', `const text: string = '${text}';\ndocument.title = text;`);
}

async function scriptOf(dir: string): Promise<string> {
  const files = [...(await openPage(dir))].filter(([at]) => at.endsWith('.js'));
  return files.map(([, { bytes }]) => bytes.toString()).join('');
}

const kept = () => readdirSync(join(root, 'node_modules/.cache/fusion-vl/web'));

test('sources are built once, and again when they change', async () => {
  writeSources('first');
  const together = await Promise.all([scriptOf(root), scriptOf(root)]);
  for (const script of together) expect(script).toMatch(/document.title=.first./);
  const names = kept();
  expect(names).toEqual([expect.stringMatching(/^[0-9a-f]{16}$/)]);
  write(`node_modules/.cache/fusion-vl/web/${names[0]}/kept.js`, '/* kept */');
  expect(await scriptOf(root)).toContain('/* kept */');
  writeSources('second');
  expect(await scriptOf(root)).toMatch(/document.title=.second./);
  expect(kept()).toHaveLength(2);
});

test('a compiled page is read as it is', async () => {
  writeSources('source');
  write('dist/web/index.html', 'compiled');
  const page = await openPage(root);
  expect(page.get('/')?.bytes.toString()).toBe('compiled');
  expect(() => kept()).toThrow('ENOENT');
});

test('where there is neither, and where the sources are wrong, the page says so', async () => {
  const textOf = async () => (await openPage(root)).get('/')?.bytes.toString();
  expect(await textOf()).toMatch(/API is under \/v1.*sources are not here/);
  writeSources('x');
  write('web/main.ts', 'const = 3;');
  expect(await textOf()).toMatch(/could not be built: /);
  expect(kept()).toEqual([]);
});
