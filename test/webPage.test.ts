/** The web page in a real browser, before a real server: a random tiny model, and one that says what a test wants. */
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import type { Browser } from 'playwright-core';
import sharp from 'sharp';
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest';
import type { Page as Site } from '../src/serve/page.ts';
import { openPage } from '../src/serve/pageBuild.ts';
import { noBrowser, openBrowser, violations, visit } from './support/browser.ts';
import { copyCheckpoint, GOLDEN } from './support/checkpoints.ts';
import { door, type FakeOptions, fakeModel } from './support/fakeModel.ts';
import {
  answers,
  ask,
  button,
  choose,
  colours,
  explainingModel,
  explanationOf,
  HOSTILE_MARKDOWN,
  overflow,
  question,
  said,
  tabTo,
} from './support/pageParts.ts';
import { askServer, type Changes, serverWith, stopServers } from './support/server.ts';

const dir = mkdtempSync(join(tmpdir(), 'fusion-page-'));
const IMAGE = join(GOLDEN, 'images/rgb.png');
const checkpoint = copyCheckpoint();
let browser: Browser;
let site: Site;
beforeAll(async () => {
  if (noBrowser !== undefined) return;
  site = await openPage(fileURLToPath(new URL('..', import.meta.url)));
  browser = await openBrowser();
});
afterEach(async () => {
  for (const context of browser?.contexts() ?? []) await context.close();
  await stopServers();
});
afterAll(async () => {
  await browser?.close();
  checkpoint.remove();
  rmSync(dir, { recursive: true, force: true });
});

const serve = (options: FakeOptions = {}, changes: Changes = {}) => {
  const model = fakeModel(options);
  return serverWith({ models: [model], page: site, ...changes }).then((server) => ({ ...server, model }));
};

const eventually = <T>(read: () => T) => expect.poll(read, { timeout: 20_000 });

describe.skipIf(noBrowser !== undefined)(`the page (${noBrowser ?? 'in Chromium'})`, () => {
  test('upload, ask, stream, stop, a second turn, edit, again, copy, a new conversation', async () => {
    const gates = Array.from({ length: 3 }, door);
    let word = 0;
    const pause = async () => gates[word++]?.pause();
    const { url, model } = await serve({ words: ['Red ', 'and ', 'blue.'], pause });
    const { page, complaints } = await visit(browser, url);
    await choose(page, IMAGE);
    await page.getByAltText('Your picture: rgb.png').waitFor();
    await ask(page, 'Which colours?');
    gates[0]?.open();
    await eventually(() => said(page)).toEqual(['Red']);
    gates[1]?.open();
    await eventually(() => said(page)).toEqual(['Red and']);
    await button(page, 'Stop').click();
    await page.getByText('Stopped.', { exact: true }).waitFor();
    gates[2]?.open();
    await eventually(() => model.running).toBe(0);

    await ask(page, 'And now?');
    await page.getByText('3 tokens · 500 tokens/s').waitFor();
    await eventually(() => said(page)).toEqual(['Red and', 'Red and blue.']);
    const { conversation } = model.asked[1]!;
    expect(conversation.picture).toBeDefined();
    expect(conversation.messages.map(({ text }) => text.replace('<image>', '').trim())).toEqual([
      'Which colours?',
      'Red and',
      'And now?',
    ]);

    await button(page, 'Answer again').nth(1).click();
    await eventually(() => model.asked.length).toBe(3);
    expect(model.asked[2]!.conversation.messages).toEqual(conversation.messages);
    await page.getByText('3 tokens').waitFor();
    await button(page, 'Copy the answer').nth(1).click();
    await button(page, 'Copied').waitFor();
    expect(await page.evaluate('navigator.clipboard.readText()')).toBe('Red and blue.');

    await button(page, 'Edit the question').first().click();
    await page.getByLabel('The question, to be changed').fill('Which shapes?');
    await button(page, 'Ask again').click();
    await eventually(() => model.asked.length).toBe(4);
    await page.getByText('3 tokens').waitFor();
    expect(await page.locator('.question p').allTextContents()).toEqual(['Which shapes?']);

    await button(page, 'New conversation').click();
    await page.getByText('Ask about a picture').waitFor();
    expect(await page.locator('.exchange').count()).toBe(0);
    expect(complaints).toEqual([]);
  });

  test('a picture that is dropped or pasted; another one asks for a new conversation', async () => {
    const { url, model } = await serve();
    const { page, complaints } = await visit(browser, url);
    const bytes = readFileSync(join(GOLDEN, 'images/tiny.png')).toString('base64');
    const send = (kind: string, data: string, name: string) =>
      page.evaluate(`{
        const bytes = Uint8Array.from(atob('${bytes}'), (c) => c.charCodeAt(0));
        const data = new DataTransfer();
        data.items.add(new File([bytes], '${name}', { type: 'image/png' }));
        document.body.dispatchEvent(new ${kind}, { ${data}: data, bubbles: true, cancelable: true }));
      }`);
    await send("DragEvent('drop'", 'dataTransfer', 'dropped.png');
    await page.getByAltText('Your picture: dropped.png').waitFor();
    await send("ClipboardEvent('paste'", 'clipboardData', 'pasted.png');
    await page.getByAltText('Your picture: pasted.png').waitFor();
    await ask(page, 'What?');
    await page.getByText('3 tokens').waitFor();
    await send("DragEvent('drop'", 'dataTransfer', 'other.png');
    await page.getByText('A conversation is about one picture.').waitFor();
    expect(await page.getByAltText('Your picture: pasted.png').count()).toBe(1);
    await button(page, 'Begin a new one with it').click();
    await page.getByAltText('Your picture: other.png').waitFor();
    expect(await page.locator('.exchange').count()).toBe(0);
    expect(model.asked).toHaveLength(1);
    expect(complaints).toEqual([]);
  });

  test('a question waits for the picture that is being opened', async () => {
    const { url, model } = await serve();
    const { page, complaints } = await visit(browser, url);
    await page.getByText('Ready', { exact: true }).waitFor({ state: 'attached' });
    const gate = door();
    await page.route('**/hearts*.png', async (route) => {
      await gate.pause();
      await route.continue();
    });
    await button(page, 'Sample: hearts and a star').click();
    await ask(page, 'Already?');
    expect(await button(page, 'Ask').isDisabled()).toBe(true);
    gate.open();
    await page.getByAltText('Your picture: hearts.png').waitFor();
    await ask(page, 'And now?');
    await eventually(() => said(page)).toEqual(['Hello, world']);
    expect(model.asked.map(({ conversation }) => conversation.picture !== undefined)).toEqual([true]);
    expect(complaints).toEqual([]);
  });

  test('a large picture is made smaller, and one that is none is refused', async () => {
    const large = join(dir, 'large.png');
    const create = { width: 3000, height: 1500, channels: 3 as const, background: '#3366aa' };
    await sharp({ create }).png().toFile(large);
    const { url } = await serve({}, { maxPixels: 5e6 });
    const { page, complaints } = await visit(browser, url);
    await choose(page, fileURLToPath(import.meta.url));
    await page.getByText('webPage.test.ts is no picture that this browser can read.').waitFor();
    await choose(page, large);
    await page.getByText('Made smaller for sending: 2048 × 1024 pixels of 3000 × 1500.').waitFor();
    const request = page.waitForRequest(/chat\/completions/);
    await ask(page, 'What?');
    const [{ content }] = (await request).postDataJSON().messages;
    const sent = Buffer.from(content[0].image_url.url.replace('data:image/jpeg;base64,', ''), 'base64');
    expect(await sharp(sent).metadata()).toMatchObject({ format: 'jpeg', width: 2048, height: 1024 });
    await page.getByText('3 tokens').waitFor();
    expect(complaints).toEqual([]);
  });

  test('what a model says is shown as Markdown and does nothing', async () => {
    const { url } = await serve({ words: HOSTILE_MARKDOWN });
    const { page, complaints } = await visit(browser, url);
    await ask(page, 'Say something.');
    await page.getByText('6 tokens').waitFor();
    const shown = await answers(page).innerHTML();
    expect(shown).toContain('<h3>Title</h3>');
    expect(shown).toContain('<strong>bold</strong>');
    expect(shown).toMatch(/<a [^>]*href="https:\/\/example.com\/a"/);
    expect(shown).toMatch(/rel="noopener noreferrer nofollow"/);
    expect(shown).toContain('<td>2</td>');
    expect(shown).toContain('const x = 1;');
    expect(shown).toContain('&lt;script&gt;alert(2)&lt;/script&gt;');
    expect(shown).not.toMatch(
      /<(script|img|iframe|form|button|svg|style)|<[^>]*(javascript:|\son\w+=|style=)/i,
    );
    expect(complaints).toEqual([]);
  });

  test('settings are sent and kept; votes are kept', async () => {
    const votes = join(dir, 'votes.jsonl');
    const { url, model } = await serve({}, { votes });
    const { page, complaints } = await visit(browser, url);
    await button(page, 'Settings').click();
    for (const [name, value] of [
      ['Temperature', '0.7'],
      ['Top p', '0.9'],
      ['Most tokens of an answer', '2'],
      ['Seed', '5'],
    ] as const) {
      await page.getByLabel(name).fill(value);
    }
    await button(page, 'Done').click();
    await page.reload();
    await ask(page, 'What?');
    await page.getByText('ended at the limit on tokens').waitFor();
    expect(model.asked[0]!.options).toMatchObject({ temperature: 0.7, topP: 0.9, maxTokens: 2, seed: 5 });
    await button(page, 'Good answer').click();
    await page.locator('[aria-label="Good answer"][aria-pressed=true]').waitFor();
    expect(JSON.parse(readFileSync(votes, 'utf8'))).toMatchObject({
      vote: 'like',
      model: 'fake',
      messages: [{ content: 'What?' }, { role: 'assistant', content: 'Hello, ' }],
    });
    expect(complaints).toEqual([]);
  });

  test('loading, a full queue, a failure, a missing key and a lost server are told', async () => {
    const [loading, answering] = [door(), door()];
    const model = fakeModel({ loading: loading.pause, pause: answering.pause, words: ['x'] });
    const settings = { models: [model], page: site, apiKeys: ['secret'], admission: { slots: 1, queue: 0 } };
    const server = await serverWith(settings, false);
    const { page } = await visit(browser, server.url);
    await page.getByText('Loading the model').waitFor();
    await question(page).fill('What?');
    expect(await button(page, 'Ask').isDisabled()).toBe(true);
    loading.open();
    await page.getByText('Ready', { exact: true }).waitFor({ state: 'attached' });
    await button(page, 'Ask').click();
    await page.getByText('This server asks for an API key.').waitFor();
    await button(page, 'Settings').click();
    await page.getByLabel('API key').fill('secret');
    await button(page, 'Done').click();
    const headers = { Authorization: 'Bearer secret' };
    const held = askServer(server, {}, { headers });
    await eventually(() => model.running).toBe(1);
    await ask(page, 'What?');
    await page.getByText(/The server has its hands full. Try again in \d+ second/).waitFor();
    answering.open();
    await held;
    await ask(page, 'What?');
    await page.getByText('1 token').waitFor();
    server.abort();
    await server.stop();
    await ask(page, 'Still there?');
    await page.getByText('The server cannot be reached. Is it still running?').waitFor();
  });

  test('shows how a model looked: the map is the model’s own, layer by layer, token by token', async () => {
    const peak = 2 * 8 + 5;
    const explain = async () => explanationOf(peak);
    const { url } = await serve({ explain });
    const { page, complaints } = await visit(browser, url);
    await choose(page, IMAGE);
    await ask(page, 'What?');
    await button(page, 'See how it looked').click();
    const map = page.getByRole('img', {
      name: /^Heat map\. Whole question, mean of all layers: strongest in the/,
    });
    await map.waitFor();
    const colourOf = await colours(page);
    expect([colourOf(peak), colourOf(0)]).toEqual([
      [253, 231, 37],
      [68, 1, 84],
    ]);
    await page.getByText('strongest in the upper right').first().waitFor();

    await page.getByLabel('Layer', { exact: true }).fill('2');
    await page.getByText('Whole question, layer 2 of 2').first().waitFor();
    await page.locator('.segment', { hasText: 'Answer' }).click();
    await page.getByText('Whole answer', { exact: true }).waitFor();
    await page.locator('.chip', { hasText: 'world' }).click();
    await page.getByText('“world”, mean of all layers: strongest in the upper right').first().waitFor();
    const placeOf = async () => (await page.locator('.chips').boundingBox())?.y;
    const before = await placeOf();
    await page.locator('.chip', { hasText: 'Hello' }).hover();
    expect(await placeOf()).toBe(before);
    await page.getByText('“Hello”, mean of all layers: strongest in the lower left').first().waitFor();
    await page.locator('.segment', { hasText: 'Latents' }).click();
    await page.getByText('All latents').first().waitFor();
    expect(await page.locator('.latents .chip').count()).toBe(4);
    await page.locator('canvas').hover({ position: { x: 90, y: 60 } });
    await page.getByText(/^here /).waitFor();
    await button(page, 'Close the heat maps').click();
    await page.getByAltText('Your picture: rgb.png').waitFor();
    await eventually(() => page.evaluate('document.activeElement.textContent.trim()')).toBe(
      'See how it looked',
    );
    expect(complaints).toEqual([]);
  });

  test('asks a random model, and shows its attention', async () => {
    const { url } = await serverWith({
      models: [await explainingModel(checkpoint.dir)],
      memoryLimit: 1e9,
      page: site,
    });
    const { page, complaints } = await visit(browser, url);
    await choose(page, IMAGE);
    await button(page, 'Settings').click();
    await page.getByLabel('Most tokens of an answer').fill('4');
    await button(page, 'Done').click();
    await ask(page, 'What is this?');
    await page.getByText('4 tokens').waitFor();
    const answered = page.waitForResponse(/explain/);
    await button(page, 'See how it looked').click();
    const { answer, question_tokens } = await (await answered).json();
    await page.locator('canvas').waitFor();
    expect(await page.locator('.chip').count()).toBe(1 + question_tokens.length);
    await page.locator('.segment', { hasText: 'Answer' }).click();
    await page.locator('.chip').nth(2).click();
    const values: number[] = answer.mean.data.slice(64, 128);
    const colourOf = await colours(page);
    expect(colourOf(values.indexOf(Math.max(...values)))).toEqual([253, 231, 37]);
    expect(complaints).toEqual([]);
  });

  test('is used by keyboard alone', async () => {
    const gate = door();
    let word = 0;
    const pause = () => (word++ === 1 ? gate.pause() : Promise.resolve());
    const { url, model } = await serve({ pause, explain: async () => explanationOf(9) });
    const { page, complaints } = await visit(browser, url);
    await page.getByText('Ready', { exact: true }).waitFor({ state: 'attached' });
    await tabTo(page, 'Sample: hearts and a star');
    await page.keyboard.press('Enter');
    await page.getByAltText('Your picture: hearts.png').waitFor();
    await tabTo(page, 'What is in this picture?');
    await tabTo(page, 'question');
    await page.keyboard.type('Two');
    await page.keyboard.press('Shift+Enter');
    await page.keyboard.type('lines?');
    await page.keyboard.press('Enter');
    await eventually(() => said(page)).toEqual(['Hello']);
    await page.keyboard.press('Escape');
    await page.getByText('Stopped.', { exact: true }).waitFor();
    gate.open();
    expect(model.asked[0]!.conversation.messages[0]!.text).toContain('Two\nlines?');
    await tabTo(page, 'See how it looked', 'Shift+Tab');
    await page.keyboard.press('Enter');
    await page.locator('canvas').waitFor();
    expect(await page.evaluate('document.activeElement.textContent')).toBe('How it looked');
    await tabTo(page, 'look-view');
    await page.keyboard.press('ArrowRight');
    await page.getByText(/what the question’s tokens attend to/).waitFor();
    await tabTo(page, 'look-layer');
    await page.keyboard.press('ArrowRight');
    await page
      .getByText(/Whole question, layer 1 of 2/)
      .first()
      .waitFor();
    await tabTo(page, 'look-item');
    await page.keyboard.press('ArrowRight');
    await page
      .getByText(/“What”, layer 1 of 2/)
      .first()
      .waitFor();
    await page.keyboard.press('Escape');
    await page.getByAltText('Your picture: hearts.png').waitFor();
    await eventually(() => page.evaluate('document.activeElement.textContent.trim()')).toBe(
      'See how it looked',
    );
    expect(complaints).toEqual([]);
  });

  const [wide, narrow] = [
    { width: 1280, height: 800 },
    { width: 340, height: 640 },
  ];
  test.each([
    ['light, wide', wide],
    ['dark, wide', { ...wide, dark: true }],
    ['light, narrow', narrow],
    ['dark, narrow', { ...narrow, dark: true }],
  ])('in every state axe finds nothing and nothing sticks out: %s', async (_, visitor) => {
    const words = [
      'A ',
      '[link](https://example.com), ',
      '`code`, ',
      '\n\n```\n',
      'x'.repeat(200),
      '\n```\n',
    ];
    const { url } = await serve(
      { words, explain: async () => explanationOf(9) },
      { votes: join(dir, 'v.jsonl') },
    );
    const { page, complaints } = await visit(browser, url, visitor);
    const check = async () => {
      expect(await violations(page)).toEqual([]);
      expect(await overflow(page)).toBe(0);
    };
    await page.getByText('Ready', { exact: true }).waitFor({ state: 'attached' });
    await check();
    await choose(page, IMAGE);
    await page.getByAltText('Your picture: rgb.png').waitFor();
    await check();
    await ask(page, `A long ${'question'.repeat(12)}?`);
    await page.getByText('6 tokens').waitFor();
    await check();
    const heard = page.getByRole('log', { name: 'The answer, read aloud' });
    expect(await heard.textContent()).toMatch(/^A .*The answer is complete\.$/s);
    await button(page, 'See how it looked').click();
    await page.locator('canvas').waitFor();
    await check();
    await button(page, 'Settings').click();
    await check();
    expect(complaints).toEqual([]);
  });

  test('follows the system’s colours until it is told otherwise, and keeps that', async () => {
    const { url } = await serve();
    const { page } = await visit(browser, url, { dark: true });
    const paper = () => page.evaluate<string>('getComputedStyle(document.documentElement).backgroundColor');
    const dark = await paper();
    await button(page, 'Use light colours').click();
    await eventually(paper).not.toBe(dark);
    await page.reload();
    await button(page, 'Use dark colours').click();
    await eventually(paper).toBe(dark);
  });
});
