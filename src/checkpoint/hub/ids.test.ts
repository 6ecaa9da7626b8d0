import { describe, expect, it } from 'vitest';
import { parseHubId, showId } from './ids.ts';
import { isWanted, wantedFiles } from './listing.ts';

describe('parseHubId', () => {
  it.each([
    ['starriver030515/FUSION-X-Phi3.5-3B', 'main'],
    ['google/siglip2-giant-opt-patch16-384@v1.0', 'v1.0'],
    ['a/b@refs/pr/1', 'refs/pr/1'],
    [`a/b@${'0'.repeat(40)}`, '0'.repeat(40)],
  ])('%s', (text, revision) => {
    const id = parseHubId(text)!;
    expect(id.revision).toBe(revision);
    expect(showId(id)).toBe(text);
  });

  it.each([
    'tiny',
    './a/b',
    '../b',
    '/a/b',
    'a/b/c',
    'a/',
    'a/b.git',
    'a/b--c',
    'a/..',
    '~/b',
    'C:\\models/b',
    'a/b@',
    'a/b@../../x',
    'a/b@/x',
    'a/b@x/.y',
    'a/b c',
    `a/${'b'.repeat(97)}`,
    '',
  ])('%s can only be a folder', (text) => {
    expect(parseHubId(text)).toBeUndefined();
  });
});

describe('isWanted', () => {
  it.each([
    'config.json',
    'generation_config.json',
    'adapter_config.json',
    'tokenizer.json',
    'tokenizer.model',
    'tokenizer_config.json',
    'special_tokens_map.json',
    'added_tokens.json',
    'model.safetensors',
    'model-00001-of-00002.safetensors',
    'model.safetensors.index.json',
    'mm_projector.bin',
  ])('%s is', (file) => expect(isWanted(file)).toBe(true));

  it.each([
    'pytorch_model.bin',
    'training_args.bin',
    'flax_model.msgpack',
    'consolidated.00.pth',
    'original/model.safetensors',
    'README.md',
    '.gitattributes',
    'modeling.py',
    '..\\model.safetensors',
    'pytorch_model.bin.index.json',
  ])('%s is not', (file) => expect(isWanted(file)).toBe(false));

  it('refuses a repository without weights that are read', () => {
    const files = [{ path: 'config.json' }, { path: 'pytorch_model.bin' }];
    expect(() => wantedFiles(files, 'a/b')).toThrow(
      'a/b: expected a model with safetensors weights, got only others, such as pytorch_model.bin',
    );
    expect(() => wantedFiles([], 'a/b')).toThrow('none among its 0 files');
  });
});
