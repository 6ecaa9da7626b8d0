/**
 * Pictures of the web page for the documentation: `npx tsx bench/screenshots.ts http://127.0.0.1:8080 docs/images`
 * with `fusion serve` at that address. Takes Debian's Chromium.
 */
import path from 'node:path';
import { type BrowserContextOptions, chromium, type Page } from 'playwright-core';
import sharp from 'sharp';

const [address = 'http://127.0.0.1:8080', folder = 'docs/images'] = process.argv.slice(2);
const QUESTIONS = ['Describe the picture.', 'Is there a red circle?'];
const WIDE = { width: 1280, height: 800 };
const NARROW = { width: 390, height: 844 };

async function ask(page: Page, question: string): Promise<void> {
  await page.getByLabel('Your question').fill(question);
  await page.keyboard.press('Enter');
  await page.getByRole('button', { name: 'Stop', exact: true }).waitFor({ state: 'hidden' });
}

/** Asks about the first sample, and shows what the first answer looked at. */
async function look(page: Page): Promise<void> {
  await page.getByText('Ready', { exact: true }).waitFor({ state: 'attached' });
  await page.getByRole('button', { name: 'Sample: circles and a square' }).click();
  await page.getByRole('img', { name: 'Your picture' }).waitFor();
  for (const question of QUESTIONS) await ask(page, question);
  await page.getByRole('button', { name: 'See how it looked' }).first().click();
  await page.locator('canvas').waitFor();
  await page.locator('.segment', { hasText: 'Answer' }).click();
  await page.locator('.chip', { hasText: 'cyan' }).first().click();
}

async function save(page: Page, name: string): Promise<void> {
  const png = await page.screenshot();
  await sharp(png).png({ palette: true, quality: 90, effort: 10 }).toFile(path.join(folder, name));
}

const browser = await chromium.launch({ executablePath: '/usr/bin/chromium', args: ['--no-sandbox'] });
try {
  const views: readonly (readonly [string, BrowserContextOptions])[] = [
    ['page-wide-light.png', { viewport: WIDE, colorScheme: 'light' }],
    ['page-wide-dark.png', { viewport: WIDE, colorScheme: 'dark' }],
    ['page-narrow-light.png', { viewport: NARROW, colorScheme: 'light' }],
  ];
  for (const [name, options] of views) {
    const page = await browser.newPage({ ...options, reducedMotion: 'reduce' });
    await page.goto(address);
    await look(page);
    await save(page, name);
    await page.close();
  }
} finally {
  await browser.close();
}
