/** What lies in the cache, and what is found there without the hub. */
import {
  cpSync,
  existsSync,
  lstatSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  rmSync,
  symlinkSync,
  truncateSync,
  writeFileSync,
} from 'node:fs';
import { homedir } from 'node:os';
import path from 'node:path';
import { describe, expect, it } from 'vitest';
import { COMMIT_A, COMMIT_B, etagOf, ID } from '../../../test/support/fakeHub.ts';
import { expectWhole, hubCase, id, NEEDED, refusalOf, WEIGHTS } from '../../../test/support/hubCase.ts';
import { hubFromEnvironment } from './hub.ts';
import { parseHubId } from './ids.ts';
import { pullModel, resolveModel } from './resolve.ts';

const each = hubCase();

describe('the layout', () => {
  it('is that of huggingface_hub', async () => {
    const { folder, fetchedBytes } = await pullModel(id, {}, each.hub);
    expect(folder).toBe(each.snapshot);
    expectWhole(folder);
    expect(fetchedBytes).toBe(WEIGHTS.length + 3_000 + 27);
    expect(readdirSync(folder).sort()).toEqual(NEEDED);
    for (const name of NEEDED) {
      const etag = etagOf(readFileSync(path.join(folder, name)));
      expect(readlinkSync(path.join(folder, name))).toBe(`../../blobs/${etag}`);
    }
    expect(readFileSync(path.join(each.folder, 'refs/main'), 'utf8')).toBe(COMMIT_A);
    expect(readdirSync(path.join(each.folder, 'blobs'))).toHaveLength(3);
    const tree = JSON.parse(readFileSync(path.join(each.folder, `trees/${COMMIT_A}.json`), 'utf8'));
    expect(tree.format_version).toBe(1);
    expect(Object.keys(tree.files)).toHaveLength(5);
    expect(tree.files['model.safetensors']).toMatchObject({
      size: WEIGHTS.length,
      lfs_sha256: etagOf(WEIGHTS),
    });
  });

  it('keeps equal files of two commits once, and refs of each revision', async () => {
    await pullModel(id, {}, each.hub);
    each.fake.commits.set(
      COMMIT_B,
      new Map([...each.fake.commits.get(COMMIT_A)!, ['config.json', Buffer.from('{}')]]),
    );
    each.fake.refs.set('v2/try', COMMIT_B);
    const { folder, fetchedBytes } = await pullModel(parseHubId(`${ID}@v2/try`)!, {}, each.hub);
    expect(path.basename(folder)).toBe(COMMIT_B);
    expect(fetchedBytes).toBe(2);
    expect(readFileSync(path.join(each.folder, 'refs/v2/try'), 'utf8')).toBe(COMMIT_B);
    expect(readFileSync(path.join(each.folder, 'refs/main'), 'utf8')).toBe(COMMIT_A);
  });

  it('fetches content that two files share once', async () => {
    each.fake.commits.get(COMMIT_A)!.set('copy.safetensors', WEIGHTS);
    const { folder } = await pullModel(id, {}, each.hub);
    expect(readFileSync(path.join(folder, 'copy.safetensors')).equals(WEIGHTS)).toBe(true);
    expect(each.requested('cdn').filter((url) => url.includes('safetensors'))).toHaveLength(1);
  });

  it('goes on from what another program brought', async () => {
    const blobs = path.join(each.folder, 'blobs');
    mkdirSync(blobs, { recursive: true });
    writeFileSync(path.join(blobs, etagOf(WEIGHTS)), WEIGHTS);
    expectWhole((await pullModel(id, {}, each.hub)).folder);
    expect(each.requested('cdn').filter((url) => url.includes('model.safetensors'))).toEqual([]);
  });
});

describe('a model in the cache', () => {
  const offline = () => ({ ...each.hub, offline: true });

  it('is taken without asking the hub; pull asks for a newer commit', async () => {
    await pullModel(id, {}, each.hub);
    each.fake.requests.length = 0;
    expect(await resolveModel(ID, {}, each.hub)).toBe(each.snapshot);
    expect(await resolveModel(`${ID}@${COMMIT_A}`, {}, offline())).toBe(each.snapshot);
    expect(await pullModel(id, {}, offline())).toEqual({ folder: each.snapshot, fetchedBytes: 0 });
    expect(each.fake.requests).toEqual([]);
    expect((await pullModel(id, {}, each.hub)).fetchedBytes).toBe(0);
    expect(each.requested('hub')).toHaveLength(1);
  });

  it.each([
    ['nothing at all', () => {}],
    ['a link to nothing', () => rmSync(each.blob(WEIGHTS))],
    ['a shortened blob', () => truncateSync(each.blob(WEIGHTS), 5)],
    ['no tokenizer', () => rmSync(path.join(each.snapshot, 'tokenizer.json'))],
    [
      'a ref that leads elsewhere',
      () => {
        cpSync(each.snapshot, path.join(each.hub.cache, 'elsewhere'), { recursive: true, dereference: true });
        writeFileSync(path.join(each.folder, 'refs/main'), '../../elsewhere');
      },
    ],
    ['a ref cut short', () => writeFileSync(path.join(each.folder, 'refs/main'), COMMIT_A.slice(0, 7))],
  ])('is not whole with %s, and pull mends it', async (what, damage) => {
    if (what !== 'nothing at all') await pullModel(id, {}, each.hub);
    damage();
    const message = await refusalOf(resolveModel(ID, {}, offline()));
    expect(message).toMatch(/^owner\/model: expected a folder, or a model in .*HF_HUB_OFFLINE/);
    expectWhole((await pullModel(id, {}, each.hub)).folder);
    expect(await resolveModel(ID, {}, offline())).toBe(each.snapshot);
  });

  it('brought by an older program, without a list, is judged by its index', async () => {
    const put = (name: string, text: string) => {
      mkdirSync(each.snapshot, { recursive: true });
      writeFileSync(path.join(each.snapshot, name), text);
    };
    mkdirSync(path.join(each.folder, 'refs'), { recursive: true });
    writeFileSync(path.join(each.folder, 'refs/main'), COMMIT_A);
    put('config.json', '{}');
    await refusalOf(resolveModel(ID, {}, offline()));
    put('model.safetensors.index.json', '{"weight_map":{"a":"1.safetensors","b":"2.safetensors"}}');
    put('1.safetensors', '');
    await refusalOf(resolveModel(ID, {}, offline()));
    symlinkSync('nowhere', path.join(each.snapshot, '2.safetensors'));
    await refusalOf(resolveModel(ID, {}, offline()));
    rmSync(path.join(each.snapshot, '2.safetensors'));
    put('2.safetensors', '');
    expect(await resolveModel(ID, {}, offline())).toBe(each.snapshot);
  });
});

describe('resolveModel', () => {
  it('takes folders, and files, as they are', async () => {
    const { cache } = each.hub;
    mkdirSync(path.join(cache, 'a'), { recursive: true });
    for (const name of [path.join(cache, 'a'), './a/b', 'a/b/c', 'src/checkpoint', 'package.json'])
      expect(await resolveModel(name, {}, each.hub)).toBe(name);
    expect(each.fake.requests).toEqual([]);
  });

  it('downloads what is no folder, and says so', async () => {
    const notes: string[] = [];
    const onNote = (text: string) => notes.push(text);
    expectWhole(await resolveModel(ID, { onNote }, each.hub));
    expect(notes).toEqual([
      `owner/model: no such folder; asking ${each.hub.endpoint} for a model of that name`,
      `owner/model: downloading 203.0 kB to ${each.folder}`,
    ]);
    expect(existsSync(path.join(each.hub.cache, '.locks/models--owner--model/fusion-vl.lock'))).toBe(false);
  });
});

describe('hubFromEnvironment', () => {
  const hubOf = hubFromEnvironment;

  it('reads what Hugging Face reads', async () => {
    const home = path.join(homedir(), '.cache/huggingface');
    expect(await hubOf({})).toMatchObject({
      endpoint: 'https://huggingface.co',
      offline: false,
      stallMs: 30_000,
    });
    expect((await hubOf({})).cache).toBe(path.join(home, 'hub'));
    expect((await hubOf({ XDG_CACHE_HOME: '/x' })).cache).toBe('/x/huggingface/hub');
    expect((await hubOf({ HF_HOME: '/h', XDG_CACHE_HOME: '/x' })).cache).toBe('/h/hub');
    expect((await hubOf({ HF_HOME: '~/h' })).cache).toBe(path.join(homedir(), 'h/hub'));
    expect((await hubOf({ HF_HOME: '/h', HF_HUB_CACHE: '/c' })).cache).toBe('/c');
    const set = { HF_ENDPOINT: 'http://mirror.test/hub/', HF_HUB_OFFLINE: '1', HF_HUB_DOWNLOAD_TIMEOUT: '2' };
    expect(await hubOf(set)).toMatchObject({
      endpoint: 'http://mirror.test/hub',
      offline: true,
      stallMs: 2000,
    });
    expect(await refusalOf(hubOf({ HF_ENDPOINT: 'mirror' }))).toMatch(/^HF_ENDPOINT: expected a URL/);
  });

  it('finds the token in the variable, or in a file', async () => {
    const { cache } = each.hub;
    writeFileSync(path.join(cache, 'token'), 'hf_file\n');
    writeFileSync(path.join(cache, 'other'), 'hf_other\n');
    expect((await hubOf({ HF_HOME: cache })).token).toBe('hf_file');
    expect((await hubOf({ HF_HOME: cache, HF_TOKEN_PATH: path.join(cache, 'other') })).token).toBe(
      'hf_other',
    );
    expect((await hubOf({ HF_HOME: cache, HF_TOKEN: ' hf_set ' })).token).toBe('hf_set');
    expect((await hubOf({ HF_HOME: path.join(cache, 'none') })).token).toBeUndefined();
  });
});

it('copies where the disk has no links', async () => {
  const { vi } = await import('vitest');
  vi.resetModules();
  vi.doMock('node:fs/promises', async (original) => ({
    ...(await original<typeof import('node:fs/promises')>()),
    symlink: async () => {
      throw Object.assign(new Error('EPERM'), { code: 'EPERM' });
    },
  }));
  const { pullModel: pull } = await import('./resolve.ts');
  vi.doUnmock('node:fs/promises');
  const { folder } = await pull(id, {}, each.hub);
  expectWhole(folder);
  expect(lstatSync(path.join(folder, 'model.safetensors')).isFile()).toBe(true);
  expect(await resolveModel(ID, {}, { ...each.hub, offline: true })).toBe(folder);
});
