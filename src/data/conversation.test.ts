import { readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { beforeAll, describe, expect, it } from 'vitest';
import { UserError } from '../common/errors.ts';
import { END_OF_QUESTION, IGNORE, IMAGE, LATENT } from '../model/sentinels.ts';
import {
  type ConversationFormat,
  encodeConversation,
  encodePrompt,
  escapeMarkers,
  formatFor,
  formatNamed,
  fromLlava,
  type LlavaTurn,
  type Message,
  renderConversation,
  stopIds,
  withSystemText,
} from './conversation.ts';
import { loadTokenizer, type Tokenizer } from './tokenizer.ts';

interface Sample {
  name: string;
  has_image: boolean;
  conversations: LlavaTurn[];
  prompt: string;
  input_ids: number[];
  labels: number[];
  instructs: number[];
}

const fixture = (path: string) =>
  fileURLToPath(new URL(`../../test/fixtures/golden/${path}`, import.meta.url));
const golden: Record<string, Sample[]> = JSON.parse(readFileSync(fixture('prompts.json'), 'utf8'));
const samples = Object.entries(golden).flatMap(([format, list]) =>
  list.map((sample) => ({ format, ...sample })),
);

const user = (text: string): Message => ({ role: 'user', text });
const assistant = (text: string): Message => ({ role: 'assistant', text });
const tokenizers: Record<string, Tokenizer> = {};
const tokenizerOf = (format: string) => tokenizers[format === 'llama_3' ? 'llama3' : 'phi3']!;

beforeAll(async () => {
  for (const name of ['llama3', 'phi3'])
    tokenizers[name] = await loadTokenizer(fixture(`tokenizers/${name}`));
});

describe('golden conversations', () => {
  it('are twenty', () => expect(samples.length).toBe(20));

  it.each(samples)('$format $name', (sample) => {
    const format = formatNamed(sample.format);
    const options = { hasImage: sample.has_image };
    const messages = fromLlava(sample.conversations);
    const encoded = encodeConversation(tokenizerOf(sample.format), format, messages, options);
    expect(renderConversation(format, messages, options)).toBe(sample.prompt);
    expect(encoded.prompt).toBe(sample.prompt);
    expect([...encoded.inputIds]).toEqual(sample.input_ids);
    expect([...encoded.labels]).toEqual(sample.labels);
    expect([...encoded.instructs]).toEqual(sample.instructs);
  });

  it.each(samples)('$format $name: each prompt for generation is a prefix', (sample) => {
    const format = formatNamed(sample.format);
    const tokenizer = tokenizerOf(sample.format);
    const all = fromLlava(sample.conversations);
    const ends = sample.labels.flatMap((label, at) => (label === END_OF_QUESTION ? [at] : []));
    const asked = all.flatMap(({ role }, k) => (role === 'user' ? [all.slice(0, k + 1)] : []));
    asked.forEach((messages, turn) => {
      // The prefix of a chat may not have come to its image yet.
      const hasImage = messages.some(({ text }) => text.includes('<image>'));
      const { inputIds, endsOfQuestion } = encodePrompt(tokenizer, format, messages, { hasImage });
      const end = ends[turn] ?? sample.input_ids.length - 1;
      expect([...inputIds]).toEqual(sample.input_ids.slice(0, end + 1));
      expect(endsOfQuestion).toEqual([...ends.slice(0, turn), end]);
    });
  });
});

describe('the plain format', () => {
  const format = formatNamed('plain');
  const hasImage = true;

  it('is three markers and the texts', () => {
    const messages = [user('What?\n<image>'), assistant('A dog'), user('Sure?'), assistant('Yes')];
    expect(renderConversation(format, messages, { hasImage })).toBe(
      '<|user|><vision_start><latent_image><vision_end><vision_start><image><vision_end>\nWhat?<|end|><|assistant|>A dog<|end|>' +
        '<|user|><vision_start><latent_image><vision_end>Sure?<|end|><|assistant|>Yes<|end|>',
    );
  });

  it('supervises answers and their ends only', () => {
    const tokenizer = tokenizerOf('plain');
    const { inputIds, labels } = encodeConversation(tokenizer, format, [user('Hi'), assistant('A dog')], {
      hasImage: false,
    });
    const end = tokenizer.tokenId('<|end|>')!;
    const answer = [...tokenizer.encode('A dog'), end];
    const at = labels.indexOf(END_OF_QUESTION);
    expect(inputIds[at]).toBe(tokenizer.tokenId('<|assistant|>'));
    expect([...labels.slice(at + 1)]).toEqual(answer);
    expect(labels.slice(0, at).every((label) => label === IGNORE)).toBe(true);
  });
});

describe('labels', () => {
  const options = { hasImage: false };

  it('measure the prompt part up to and including the header where a token spans the boundary', () => {
    const tokenizer = tokenizerOf('llama_3');
    const format: ConversationFormat = {
      ...formatNamed('llama_3'),
      systemText: '',
      assistantHeader: '<|start_header_id|> t',
    };
    expect(tokenizer.encode(' that')).toHaveLength(1);
    const { inputIds, labels } = encodeConversation(
      tokenizer,
      format,
      [user('Hi'), assistant('hat!')],
      options,
    );
    const spanning = inputIds.indexOf(tokenizer.encode(' that')[0]!);
    expect(labels[spanning]).toBe(END_OF_QUESTION);
    expect([...labels.slice(spanning + 1)]).toEqual([...inputIds.slice(spanning + 1)]);
    expect(labels).toHaveLength(spanning + 3);
  });

  it('end an empty answer that is not the last, and supervise its end', () => {
    const tokenizer = tokenizerOf('phi_3');
    const messages = [user('Hi'), assistant(''), user('Well?'), assistant('Yes')];
    const { labels, prompt } = encodeConversation(tokenizer, formatNamed('phi_3'), messages, options);
    const end = tokenizer.tokenId('<|end|>')!;
    expect(prompt).toContain('<|assistant|>\n<|end|>\n<|user|>');
    expect(labels[labels.indexOf(END_OF_QUESTION) + 1]).toBe(end);
    expect(labels.filter((label) => label === end)).toHaveLength(2);
  });

  it('are all ignored where the last answer is empty, also behind other answers', () => {
    const messages = [user('Hi'), assistant('Yes'), user('Well?'), assistant('')];
    const { labels } = encodeConversation(tokenizerOf('phi_3'), formatNamed('phi_3'), messages, options);
    expect(labels.every((label) => label === IGNORE)).toBe(true);
  });

  it('ignore a placeholder inside an answer', () => {
    const messages = [user('<image>\nHi'), assistant('See <latent_image> there')];
    const { inputIds, labels } = encodeConversation(tokenizerOf('phi_3'), formatNamed('phi_3'), messages, {
      hasImage: true,
    });
    const at = inputIds.lastIndexOf(LATENT);
    expect(at).toBeGreaterThan(labels.indexOf(END_OF_QUESTION));
    expect(labels[at]).toBe(IGNORE);
    expect(labels[at - 1]).toBe(inputIds[at - 1]);
    expect(labels.at(-1)).toBe(tokenizerOf('phi_3').tokenId('<|end|>'));
  });
});

describe('questions', () => {
  it('with nothing but an image leave no newline and no empty instructs', () => {
    for (const name of ['llama_3', 'phi_3']) {
      const prompt = encodePrompt(tokenizerOf(name), formatNamed(name), [user('<image>\n')], {
        hasImage: true,
      });
      expect(prompt.prompt).toMatch(/<image><vision_end><\|e/);
      expect([...prompt.instructs]).toEqual(name === 'llama_3' ? [900] : [0]);
    }
  });

  it('are trimmed as in Python when an image moves, else kept', () => {
    const format = formatNamed('phi_3');
    const moved = renderConversation(format, [user('\x85\x1f a\uFEFF<image>\u3000')], { hasImage: true });
    expect(moved).toContain('<vision_end>\na\uFEFF<|end|>');
    expect(renderConversation(format, [user(' a ')], { hasImage: false })).toContain(
      '<vision_end> a <|end|>',
    );
  });

  it('typed with markers are safe once escaped', () => {
    const typed =
      'Is <latent_image> or <image> <|eot_id|><|end|><|user|>\n<vision_start> a < b | c |> token?';
    const escaped = escapeMarkers(typed);
    expect(escaped).toBe(
      'Is < latent_image> or < image> < |eot_id|>< |end|>< |user|>\n< vision_start> a < b | c |> token?',
    );
    expect(escapeMarkers(escaped)).toBe(escaped);
    for (const name of ['llama_3', 'phi_3']) {
      const format = formatNamed(name);
      const tokenizer = tokenizerOf(name);
      const messages = [user(`<image>\n${escaped}`), assistant('Yes'), user(escaped)];
      const { inputIds, endsOfQuestion } = encodePrompt(tokenizer, format, messages, { hasImage: true });
      const count = (id: number) => inputIds.filter((each) => each === id).length;
      expect(count(IMAGE)).toBe(1);
      expect(count(LATENT)).toBe(2);
      expect(count(tokenizer.tokenId(format.turnEnd)!)).toBe(4);
      expect(endsOfQuestion).toHaveLength(2);
      expect(endsOfQuestion.at(-1)).toBe(inputIds.length - 1);
    }
  });
});

describe('formats', () => {
  it('belong to model types', () => {
    expect(formatFor('fusion_llama').name).toBe('llama_3');
    expect(formatFor('fusion_phi').name).toBe('phi_3');
  });

  it('stop at the tokens the tokenizer has', () => {
    expect([...stopIds(formatNamed('llama_3'), tokenizerOf('llama_3'))]).toEqual([905, 901]);
    expect([...stopIds(formatNamed('phi_3'), tokenizerOf('phi_3'))]).toEqual([902, 900]);
    const { eosId: _, ...noEos } = tokenizerOf('phi_3');
    const other = { ...noEos, tokenId: (token: string) => (token === '<|end|>' ? 7 : undefined) };
    expect([...stopIds(formatNamed('phi_3'), other)]).toEqual([7]);
    expect([...stopIds(formatNamed('phi_3'), { ...other, eosId: 9 })]).toEqual([7, 9]);
  });
});

describe('mistakes', () => {
  const ask = (messages: Message[], hasImage = false, format = 'phi_3') =>
    encodePrompt(tokenizerOf('phi_3'), formatNamed(format), messages, { hasImage });

  it.each<[string, () => unknown, RegExp]>([
    ['an unknown format', () => formatNamed('chatml'), /expected one of llama_3, phi_3, plain, got "chatml"/],
    ['a format named like a method', () => formatNamed('toString'), /got "toString"/],
    [
      'an unknown model',
      () => formatFor('llava'),
      /model_type: expected one of fusion_llama, fusion_phi, got "llava"/,
    ],
    ['no turns', () => fromLlava([]), /^conversations: expected at least one turn/],
    [
      'a system turn',
      () => fromLlava([{ from: 'system', value: '' }]),
      /conversations\[0\]\.from: .* got "system"/,
    ],
    ['a value that is no text', () => fromLlava(JSON.parse('[{"from":"gpt"}]')), /conversations\[0\]\.value/],
    [
      'no messages',
      () => renderConversation(formatNamed('plain'), [], { hasImage: false }),
      /at least one turn/,
    ],
    [
      'an answer alone',
      () => renderConversation(formatNamed('plain'), [assistant('a')], { hasImage: false }),
      /at least one/,
    ],
    [
      'two answers first',
      () => ask([assistant('a'), assistant('b'), user('c')]),
      /messages\[1\]\.role: expected "user"/,
    ],
    [
      'two questions in a row',
      () => ask([user('a'), user('b')]),
      /messages\[1\]\.role: expected "assistant", got "user"/,
    ],
    ['nothing to answer', () => ask([user('a'), assistant('b')]), /last turn to be the user/],
    ['an image nobody shows', () => ask([user('a')], true), /expected <image> in a turn/],
    ['a marker without an image', () => ask([user('<image>')]), /expected no <image>/],
    [
      'a typed latent marker',
      () => ask([user('a <latent_image>')]),
      /expected 1 <latent_image> markers, .* got 2; escape/,
    ],
    [
      'a format of another tokenizer',
      () => ask([user('a')], false, 'llama_3'),
      /llama_3: expected the token <\|eot_id\|>/,
    ],
    [
      'stops of another tokenizer',
      () => stopIds(formatNamed('plain'), tokenizerOf('llama_3')),
      /plain: expected the token/,
    ],
  ])('%s', (_, make, message) => {
    expect(make).toThrow(UserError);
    expect(make).toThrow(message);
  });
});

describe('another system text', () => {
  it('stands in place of the format’s own, its markers escaped', () => {
    const format = withSystemText(formatNamed('phi_3'), 'Be <image> brief.<|end|>');
    expect(renderConversation(format, [user('a')], { hasImage: false })).toBe(
      '<|system|>\nBe < image> brief.< |end|><|end|>\n<|user|>\n<vision_start><latent_image><vision_end>a<|end|>',
    );
    expect(withSystemText(formatNamed('plain'), undefined)).toBe(formatNamed('plain'));
  });

  it('needs a format with a system turn', () => {
    expect(() => withSystemText(formatNamed('plain'), 'Be brief.')).toThrow(/plain has no system turn/);
  });
});
