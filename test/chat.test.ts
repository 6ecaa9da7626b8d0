/** Chats: several turns through the library, and `fusion chat` as a script drives it. */
import { join } from 'node:path';
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { ask, Chat, type FusionModel, load, UserError } from '../src/index.ts';
import { copyCheckpoint, GOLDEN } from './support/checkpoints.ts';
import { finished, runCli, seen, startCli } from './support/cli.ts';
import { CountingDevice } from './support/countingDevice.ts';

const checkpoint = copyCheckpoint();
const image = join(GOLDEN, 'images/baseline.jpg');
const device = new CountingDevice();
const short = { maxTokens: 5 };
let model: FusionModel;
beforeAll(async () => {
  model = await load(checkpoint.dir, { device });
});
beforeEach(() => {
  device.runs.length = 0;
  device.afterRun = () => {};
});
afterAll(async () => {
  await model.dispose();
  checkpoint.remove();
});

const tileRuns = () => device.runs.filter((name) => name === 'encode_tile').length;
const wholeRuns = () => device.runs.filter((name) => name === 'encode_whole').length;

describe('Chat', () => {
  test('encodes the tiles once and the whole crop at every turn', async () => {
    const chat = new Chat(model);
    await chat.show(image);
    const first = await chat.ask('What is this?', short);
    const second = await chat.ask('And that?', short);
    expect([tileRuns(), wholeRuns()]).toEqual([4, 2]);
    expect(second.promptTokens).toBeGreaterThan(first.promptTokens + first.tokens.length);
    expect(chat.messages).toEqual([
      { role: 'user', text: 'What is this?' },
      { role: 'assistant', text: first.text },
      { role: 'user', text: 'And that?' },
      { role: 'assistant', text: second.text },
    ]);
  });

  test('the first turn is a question asked alone; later ones know what was said', async () => {
    const chat = new Chat(model);
    await chat.show(image);
    const first = await chat.ask('What is this?', short);
    expect(first.tokens).toEqual((await ask(model, { text: 'What is this?', image }, short)).tokens);
    const second = await chat.ask('And that?', { maxTokens: 12 });
    const alone = await ask(model, { text: 'And that?', image }, { maxTokens: 12 });
    expect(second.tokens).not.toEqual(alone.tokens);
  });

  test('the image may arrive at the second turn, and changes the answer', async () => {
    const [chat, blind] = [new Chat(model), new Chat(model)];
    for (const each of [chat, blind]) await each.ask('Hello', short);
    expect(wholeRuns()).toBe(0);
    await chat.show(image);
    const seeing = await chat.ask('What is this?', short);
    const guess = await blind.ask('What is this?', short);
    expect(wholeRuns()).toBe(1);
    expect(seeing.tokens).not.toEqual(guess.tokens);
    // 64 image tokens in the first slot, 4 latents in a third, 3 markers and a line break.
    expect(seeing.promptTokens).toBeGreaterThanOrEqual(guess.promptTokens + 64 + 2);
    await chat.ask('And now?', short);
    expect(chat.messages).toHaveLength(6);
  });

  test('has one image, which may be replaced until something is asked', async () => {
    const chat = new Chat(model);
    await chat.show(join(GOLDEN, 'images/rgb.png'));
    await chat.show(image);
    await chat.ask('What is this?', short);
    await expect(chat.show(image)).rejects.toThrow(/one a conversation/);
    chat.clear();
    expect([chat.messages, chat.hasImage]).toEqual([[], false]);
    await chat.show(image);
    expect(chat.hasImage).toBe(true);
  });

  test('a turn that fails leaves no trace', async () => {
    const chat = new Chat(model);
    await chat.ask('Hello', short);
    await expect(chat.ask(' ', short)).rejects.toThrow(UserError);
    await expect(chat.ask('Hello', { maxTokens: 5000 })).rejects.toThrow(UserError);
    await expect(chat.show('nope.png')).rejects.toThrow(UserError);
    expect([chat.messages.length, chat.hasImage]).toEqual([2, false]);
  });

  test('a cancelled turn keeps what was said, and nothing where nothing was', async () => {
    const chat = new Chat(model);
    const stopper = new AbortController();
    const decodes = () => device.runs.filter((name) => name === 'decode').length;
    device.afterRun = () => decodes() === 3 && stopper.abort();
    const answer = await chat.ask('Hello', { signal: stopper.signal });
    expect([answer.finishReason, answer.text === '']).toEqual(['cancelled', false]);
    expect(chat.messages[1]?.text).toBe(answer.text);
    await chat.ask('More?', { signal: AbortSignal.abort() });
    expect(chat.messages).toHaveLength(2);
  });
});

describe('fusion chat', () => {
  const args = ['chat', '--model', checkpoint.dir, '-q', '--max-tokens', '5'];
  const script = (...lines: string[]) => runCli(args, lines.map((line) => `${line}\n`).join(''));

  test('answers a script line by line, as the library does', async () => {
    const chat = new Chat(model);
    const expected = [await chat.ask('Hello', short)];
    await chat.show(image);
    expected.push(await chat.ask('What is this?', short));
    chat.clear();
    const result = await script(
      'Hello',
      '',
      `/image ${image}`,
      'What is this?',
      '/clear',
      'Hello',
      '/quit',
      'Not asked',
    );
    const lines = [expected[0], expected[1], expected[0]].map((answer) => `${answer?.text}\n`);
    expect(result).toEqual({ code: 0, stdout: lines.join(''), stderr: '' });
  });

  test('ends with its input; one line tells a mistake and the chat lives on', async () => {
    const { code, stdout, stderr } = await script('/image nope.png', '/image', '/nonsense', 'Hello');
    expect([code, stdout.split('\n').length]).toEqual([0, 2]);
    const lines = stderr.trimEnd().split('\n');
    expect(lines[0]).toMatch(/^fusion: nope.png: expected an image file, got no such file/);
    expect(lines[1]).toMatch(/^fusion: \/image: expected the name of a file/);
    expect(lines[2]).toMatch(/^fusion: \/nonsense: expected \/image FILE, \/clear, \/help or \/quit/);
    expect(lines).toHaveLength(3);
  });

  test('/help lists the commands, --image shows one with the first question', async () => {
    const { stderr } = await script('/help');
    for (const command of ['/image', '/clear', '/help', '/quit']) expect(stderr).toContain(command);
    const { stdout } = await runCli([...args, '--image', image], 'What is this?\n');
    expect(stdout).toBe(`${(await ask(model, { text: 'What is this?', image }, short)).text}\n`);
  });

  test('Ctrl-C stops an answer and not the program; twice at the prompt it leaves', async () => {
    const child = startCli(['chat', '--model', checkpoint.dir, '-q', '--max-tokens', '800']);
    const result = finished(child);
    const [spoke, stopped, warned] = [
      seen(child.stdout, /./),
      seen(child.stderr, /stopped/),
      seen(child.stderr, /Ctrl-C again/),
    ];
    child.stdin.write('Hello\n');
    await spoke;
    child.kill('SIGINT');
    await stopped;
    child.kill('SIGINT');
    await warned;
    child.kill('SIGINT');
    expect((await result).code).toBe(0);
  });
});
