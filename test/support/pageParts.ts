/** The page's own parts as tests use them: its fields and answers, ways through it, heat maps. */
import type { Page } from 'playwright-core';
import { readModelFiles } from '../../src/generate/model.ts';
import { fusionModel } from '../../src/serve/fusionModel.ts';

export const question = (page: Page) => page.getByLabel('Your question');
export const button = (page: Page, name: string) => page.getByRole('button', { name, exact: true });
export const answers = (page: Page) => page.locator('.prose');
export const said = (page: Page) => answers(page).allInnerTexts();

/** Chooses a picture, and waits until it is open or refused. */
export async function choose(page: Page, file: string): Promise<void> {
  await page.locator('input[type=file]').setInputFiles(file);
  await page.locator('.stage[aria-busy=false]').waitFor();
}

export async function ask(page: Page, text: string): Promise<void> {
  await question(page).fill(text);
  await question(page).press('Enter');
}

export const overflow = (page: Page) =>
  page.evaluate<number>('document.documentElement.scrollWidth - document.documentElement.clientWidth');

/** Presses a key until the focus is on what has that name, text or id. */
export async function tabTo(page: Page, name: string, key = 'Tab'): Promise<void> {
  const focused = `(({ id, name, ariaLabel, textContent, firstElementChild }) =>
    [id, name, ariaLabel, textContent.trim(), firstElementChild?.alt])(document.activeElement)`;
  for (let i = 0; i < 40; i++) {
    await page.keyboard.press(key);
    if ((await page.evaluate<unknown[]>(focused)).includes(name)) return;
  }
  throw new Error(`${name} cannot be reached with ${key}`);
}

/** The colours of the heat map's cells, as they are drawn. Read once: Chromium warns of canvases read twice. */
export async function colours(page: Page): Promise<(cell: number) => readonly number[]> {
  const bytes = await page.evaluate<number[]>(`(() => {
    const { width, height } = document.querySelector('canvas');
    return [...document.querySelector('canvas').getContext('2d').getImageData(0, 0, width, height).data];
  })()`);
  return (cell) => bytes.slice(4 * cell, 4 * cell + 3);
}

/** An explanation over 8 × 8 patches whose largest values are at one cell; the answer's first token looks elsewhere. */
export function explanationOf(peak: number) {
  const maps = (shape: readonly number[], cell: (map: number) => number) => {
    const [side = 1] = shape.slice(-1);
    const size = shape.reduce((a, b) => a * b, 1);
    const at = (i: number) => cell(Math.floor(i / side ** 2)) === i % side ** 2;
    return { shape, data: Array.from({ length: size }, (_, i) => (at(i) ? 0.2 : 0.01)) };
  };
  const both = maps([2, 2, 8, 8], () => peak);
  return {
    question_tokens: ['What', '?'],
    answer_tokens: ['Hello', ' world'],
    tower: { patches_to_question: both, question_to_patches: both },
    interaction: { after_decoder_layers: [1, 3], latents: maps([2, 4, 16, 16], () => peak) },
    answer: { layers: maps([2, 2, 8, 8], (map) => (map % 2 === 0 ? 56 : peak)) },
  };
}

/** A checkpoint’s model, as `fusion serve` has it. */
export async function explainingModel(dir: string) {
  const files = await readModelFiles(dir);
  return fusionModel('golden', files, { maxSequences: 2, threads: 1, device: 'cpu' });
}

/** What a model must be able to say without anything coming of it. */
export const HOSTILE_MARKDOWN = [
  '# Title\n\nSome **bold** text, [a link](https://example.com/a) and ',
  '[another](javascript:alert(1)) <script>alert(2)</script><img src="https://example.com/x.png" ',
  'onerror="alert(3)"> ![picture](https://example.com/y.png)\n\n<iframe src="https://example.com"></iframe>',
  '<form action="https://example.com"><button>Send</button></form><p style="color:red" onclick="alert(4)">P</p>',
  '<svg><a xlink:href="javascript:alert(5)">S</a></svg><style>body { display: none }</style>',
  '\n\n| a | b |\n|---|---|\n| 1 | 2 |\n\n```js\nconst x = 1;\n```\n',
];
