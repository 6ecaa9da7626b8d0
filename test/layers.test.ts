/** The layers of `src`: imports point down only, and onnxruntime stays inside `src/runtime`. */
import { readdirSync, readFileSync } from 'node:fs';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { expect, it } from 'vitest';

const SRC = fileURLToPath(new URL('../src', import.meta.url));

/** Top to bottom; folders on one line do not import each other. */
const LAYERS: readonly (readonly string[])[] = [
  ['cli'],
  ['serve', 'verify', 'eval'],
  ['generate', 'train'],
  ['data', 'checkpoint'],
  ['model'],
  ['runtime'],
  ['onnx'],
  ['graph'],
  ['common'],
];

const levelOf = new Map(
  LAYERS.flatMap((folders, level) => folders.map((folder) => [folder, level] as const)),
);

interface Import {
  readonly from: string;
  readonly to: string;
  readonly file: string;
}

const files = (readdirSync(SRC, { recursive: true }) as string[]).filter(
  (name) => name.endsWith('.ts') && !name.endsWith('.test.ts'),
);

function importsOf(file: string): readonly string[] {
  const text = readFileSync(path.join(SRC, file), 'utf8');
  return [...text.matchAll(/(?:from|import\()\s*'([^']+)'/g)].map((match) => match[1] ?? '');
}

function crossings(): readonly Import[] {
  return files.flatMap((file) =>
    importsOf(file)
      .filter((target) => target.startsWith('.'))
      .map((target) => {
        const to = path.relative(SRC, path.resolve(SRC, path.dirname(file), target));
        return { file, from: file.split(path.sep)[0] ?? '', to: to.split(path.sep)[0] ?? '' };
      })
      .filter(({ file, from, to }) => from !== to && file.includes(path.sep)),
  );
}

it('knows the layer of every folder', () => {
  const folders = new Set(
    files.filter((file) => file.includes(path.sep)).map((file) => file.split(path.sep)[0]),
  );
  expect([...folders].filter((folder) => !levelOf.has(folder ?? ''))).toEqual([]);
  expect(crossings().length).toBeGreaterThan(20);
});

it('imports only from layers below', () => {
  const wrong = crossings().filter(({ from, to }) => (levelOf.get(to) ?? -1) <= (levelOf.get(from) ?? 99));
  expect(wrong).toEqual([]);
});

it('imports onnxruntime in src/runtime alone', () => {
  const users = files.filter((file) => importsOf(file).some((target) => target.startsWith('onnxruntime')));
  expect(users.every((file) => file.startsWith(`runtime${path.sep}`))).toBe(true);
  expect(users.length).toBeGreaterThan(0);
});
