/** Pages compiled and built: of small sources of their own, not of the real page (`test/webPage.test.ts`). */
import {
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  utimesSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
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

test('sources are built once', async () => {
  writeSources('first');
  const together = await Promise.all([scriptOf(root), scriptOf(root)]);
  for (const script of together) expect(script).toMatch(/document.title=.first./);
  const names = kept();
  expect(names).toEqual([expect.stringMatching(/^[0-9a-f]{16}$/)]);
  write(`node_modules/.cache/fusion-vl/web/${names[0]}/kept.js`, '/* kept */');
  expect(await scriptOf(root)).toContain('/* kept */');
});

test.each(['src/common', 'examples'])(
  'a page of another %s takes the place of the one before',
  async (folder) => {
    write(`${folder}/shared.ts`, "export const shared = 'one';");
    writeSources('first');
    write('web/main.ts', `import { shared } from '../${folder}/shared.ts';\ndocument.title = shared;`);
    expect(await scriptOf(root)).toContain('one');
    const [first] = kept();
    const [killed, building] = [`${'0'.repeat(16)}.1`, `${'1'.repeat(16)}.2`];
    for (const name of [killed, building]) write(`node_modules/.cache/fusion-vl/web/${name}/part.js`, '');
    utimesSync(join(root, 'node_modules/.cache/fusion-vl/web', killed), 0, 0);
    write(`${folder}/shared.ts`, "export const shared = 'two';");
    expect(await scriptOf(root)).toContain('two');
    const others = kept().filter((name) => name !== building);
    expect(kept()).toContain(building);
    expect(others).toEqual([expect.stringMatching(/^[0-9a-f]{16}$/)]);
    expect(others).not.toContain(first);
  },
);

test('the real page takes nothing from elsewhere than what a change is looked for in', () => {
  const web = fileURLToPath(new URL('../../web/src', import.meta.url));
  const files = (readdirSync(web, { recursive: true }) as string[]).filter((name) => /\.tsx?$/.test(name));
  const outside = files.flatMap((name) =>
    [...readFileSync(join(web, name), 'utf8').matchAll(/from '((?:\.\.\/)+src\/[^']*)'/g)].map(
      ([, at]) => at,
    ),
  );
  expect(outside.length).toBeGreaterThan(0);
  for (const at of outside) expect(at).toMatch(/^\.\.\/\.\.\/src\/common\//);
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
