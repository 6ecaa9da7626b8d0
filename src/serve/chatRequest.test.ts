import { describe, expect, test } from 'vitest';
import { ApiError } from './apiError.ts';
import { readChatRequest } from './chatRequest.ts';

const user = (content: unknown = 'Hello?') => ({ role: 'user', content });
const assistant = (content: unknown = 'Yes.') => ({ role: 'assistant', content });
const image = { type: 'image_url', image_url: { url: 'data:image/png;base64,AAAA' } };
const text = (words: string) => ({ type: 'text', text: words });
const ask = (fields: object = {}) => readChatRequest({ messages: [user()], ...fields });

test('what is not given is left to the model', () => {
  expect(ask()).toEqual({
    conversation: {
      model: undefined,
      turns: [{ role: 'user', text: 'Hello?', showsImage: false }],
      image: undefined,
      systemText: undefined,
    },
    options: { maxTokens: undefined, stop: undefined, queryLength: undefined, logprobs: undefined },
    stream: false,
    includeUsage: false,
  });
});

test('null is as good as nothing', () => {
  const fields = [
    'model',
    'temperature',
    'top_p',
    'seed',
    'stop',
    'max_tokens',
    'logprobs',
    'stream',
    'n',
    'tools',
  ];
  expect(ask(Object.fromEntries(fields.map((field) => [field, null])))).toEqual(ask());
});

test('every option reaches the model under its own name', () => {
  const fields = {
    temperature: 0.7,
    top_p: 0.9,
    top_k: 40,
    min_p: 0.05,
    repetition_penalty: 1.1,
    seed: -5,
    max_tokens: 9,
    stop: 'END',
    query_length: 16,
    logprobs: true,
    top_logprobs: 3,
  };
  expect(ask(fields).options).toEqual({
    temperature: 0.7,
    topP: 0.9,
    topK: 40,
    minP: 0.05,
    repetitionPenalty: 1.1,
    seed: -5,
    maxTokens: 9,
    stop: ['END'],
    queryLength: 16,
    logprobs: 3,
  });
  expect(ask({ max_tokens: 9, max_completion_tokens: 4 }).options.maxTokens).toBe(4);
  expect(ask({ logprobs: true }).options.logprobs).toBe(0);
  expect(ask({ logprobs: false }).options.logprobs).toBeUndefined();
  expect(ask({ stream: true, stream_options: { include_usage: true } })).toMatchObject({
    stream: true,
    includeUsage: true,
  });
});

test('parts are one text; the turn with the image is known', () => {
  const messages = [user('One?'), assistant([text('Two.')]), user([text('What is'), image, text('this?')])];
  const { turns, image: url } = ask({ messages }).conversation;
  expect(turns).toEqual([
    { role: 'user', text: 'One?', showsImage: false },
    { role: 'assistant', text: 'Two.', showsImage: false },
    { role: 'user', text: 'What is\nthis?', showsImage: true },
  ]);
  expect(url).toBe(image.image_url.url);
});

test('fields that ask for what is done anyway pass', () => {
  const harmless = {
    n: 1,
    tools: [],
    tool_choice: 'none',
    response_format: { type: 'text' },
    logit_bias: {},
    presence_penalty: 0,
    frequency_penalty: 0,
    modalities: ['text'],
    user: 'x',
    store: true,
    service_tier: 'auto',
  };
  expect(ask(harmless)).toEqual(ask());
});

describe('refused', () => {
  const refused = (fields: object): ApiError => {
    try {
      ask(fields);
    } catch (error) {
      if (error instanceof ApiError) return error;
    }
    throw new Error('not refused');
  };

  test.each([
    [{ n: 2 }, 'n'],
    [{ tools: [{ type: 'function' }] }, 'tools'],
    [{ functions: [{ name: 'f' }] }, 'functions'],
    [{ tool_choice: 'required' }, 'tool_choice'],
    [{ response_format: { type: 'json_object' } }, 'response_format'],
    [{ logit_bias: { 5: 1 } }, 'logit_bias'],
    [{ presence_penalty: 0.5 }, 'presence_penalty'],
    [{ frequency_penalty: -1 }, 'frequency_penalty'],
    [{ modalities: ['text', 'audio'] }, 'modalities'],
    [{ audio: { voice: 'x' } }, 'audio'],
  ])('not supported: %j', (fields, param) => {
    expect(refused(fields)).toMatchObject({ status: 400, details: { param, code: 'unsupported_parameter' } });
  });

  test.each([
    [{ messages: undefined }, 'messages', /./],
    [{ messages: [] }, 'messages', /at least one/],
    [{ messages: 'Hello' }, 'messages', /array/],
    [{ messages: [{ role: 'tool', content: 'x' }] }, 'messages[0].role', /"system", "developer", "user"/],
    [{ messages: [user(7)] }, 'messages[0].content', /a string or an array of parts/],
    [{ messages: [user(null)] }, 'messages[0].content', /a string or an array of parts/],
    [{ messages: [user([{ type: 'input_audio' }])] }, 'messages[0].content[0].type', /"text" or "image_url"/],
    [
      { messages: [user([{ type: 'image_url', image_url: 3 }])] },
      'messages[0].content[0].image_url',
      /address/,
    ],
    [{ messages: [user('  ')] }, 'messages[0].content', /some text/],
    [{ messages: [user([image])] }, 'messages[0].content', /some text/],
    [{ messages: [user(), user()] }, 'messages[1].role', /expected "assistant"/],
    [{ messages: [assistant(), user()] }, 'messages[0].role', /expected "user"/],
    [{ messages: [user(), assistant()] }, 'messages', /last message/],
    [{ messages: [{ role: 'system', content: 'x' }] }, 'messages', /last message/],
    [{ messages: [user(), { role: 'system', content: 'x' }] }, 'messages[1].role', /come first/],
    [{ messages: [user(), assistant([image]), user()] }, 'messages[1].content', /only the user/],
    [{ messages: [user([text('a'), image, image])] }, 'messages[0].content', /one image a conversation/],
    [
      { messages: [user([text('a'), image]), assistant(), user([text('b'), image])] },
      'messages[2].content',
      /one image a conversation/,
    ],
    [{ temperature: -1 }, 'temperature', /./],
    [{ temperature: 'hot' }, 'temperature', /number/],
    [{ top_p: 0 }, 'top_p', /./],
    [{ top_p: 1.5 }, 'top_p', /./],
    [{ seed: 0.5 }, 'seed', /integer/],
    [{ max_tokens: 0 }, 'max_tokens', /integer from 1/],
    [{ max_completion_tokens: -3 }, 'max_completion_tokens', /integer from 1/],
    [{ stop: '' }, 'stop', /./],
    [{ stop: Array(17).fill('x') }, 'stop', /./],
    [{ top_logprobs: 2 }, 'top_logprobs', /logprobs to be true/],
    [{ logprobs: true, top_logprobs: 21 }, 'top_logprobs', /./],
    [{ stream: 'yes' }, 'stream', /true or false/],
  ])('%j', (fields, param, message) => {
    const error = refused(fields);
    expect(error).toMatchObject({ status: 400, details: { param } });
    expect(error.message).toMatch(message);
    expect(error.message.startsWith(`${param}: `)).toBe(true);
  });
});
