/** The page shows where the trained model looked: at what the question is about. In a real browser. */
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import type { Browser } from 'playwright-core';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { renderPng, sampleAt } from '../src/data/synth/index.ts';
import { openPage } from '../src/serve/pageBuild.ts';
import { noBrowser, openBrowser, visit } from './support/browser.ts';
import { ask, button, choose, colours, explainingModel, said } from './support/pageParts.ts';
import { serverWith, stopServers } from './support/server.ts';

const root = (name: string) => fileURLToPath(new URL(`../${name}`, import.meta.url));
/** Patches along a side of the picture. */
const GRID = 8;
const STRONGEST = [253, 231, 37];

const dir = mkdtempSync(join(tmpdir(), 'fusion-look-'));
let browser: Browser;
beforeAll(async () => {
  if (noBrowser === undefined) browser = await openBrowser();
});
afterAll(async () => {
  await browser?.close();
  await stopServers();
  rmSync(dir, { recursive: true, force: true });
});

describe.skipIf(noBrowser !== undefined)(`the page (${noBrowser ?? 'in Chromium'})`, () => {
  test('the question finds its object: the answer is right, and the map is strongest there', async () => {
    const { scene } = sampleAt('ConvShort', 'test', 500, 11, { minObjects: 2, maxObjects: 4, words: false });
    const circle = scene.panels[0].objects.find(({ shape }) => shape === 'circle')!;
    const file = join(dir, 'scene.png');
    writeFileSync(file, await renderPng(scene, 384));
    const { url } = await serverWith({
      models: [await explainingModel(root('models/tiny'))],
      memoryLimit: 1e9,
      page: await openPage(root('.')),
    });
    const { page, complaints } = await visit(browser, url);
    await choose(page, file);
    await ask(page, 'What colour is the circle?');
    await button(page, 'See how it looked').click();
    expect(await said(page)).toEqual([circle.colour]);
    await page.locator('.segment', { hasText: 'Answer' }).click();
    await page.getByText('Whole answer, mean of all layers: strongest in the').first().waitFor();
    const colourOf = await colours(page);
    const cells = Array.from({ length: GRID ** 2 }, (_, cell) => cell);
    const strongest = cells.filter((cell) => String(colourOf(cell)) === String(STRONGEST));
    expect(strongest.length).toBeGreaterThan(0);
    for (const cell of strongest) {
      const [x, y] = [cell % GRID, Math.floor(cell / GRID)].map((at) => ((at + 0.5) * 1000) / GRID);
      expect(Math.hypot(x! - circle.x, y! - circle.y)).toBeLessThan(circle.radius + 500 / GRID);
    }
    expect(complaints).toEqual([]);
  });
});
