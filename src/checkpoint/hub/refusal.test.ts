/** What is said of a hub that answers, but not with a model. */
import { describe, expect, it } from 'vitest';
import { COMMIT_A, GOOD_TOKEN, ID } from '../../../test/support/fakeHub.ts';
import { expectWhole, hubCase, id, refusalOf } from '../../../test/support/hubCase.ts';
import { parseHubId } from './ids.ts';
import { pullModel } from './resolve.ts';

const each = hubCase();
const pull = () => pullModel(id, {}, each.hub);

describe('refusals', () => {
  const as = (token?: string) => {
    each.hub = { ...each.hub, token };
  };

  it('a gated model says where to ask and how to get a token', async () => {
    each.fake.gated = true;
    const page = `${each.hub.endpoint}/owner/model`;
    expect(await refusalOf(pull())).toBe(
      `owner/model: a gated or private model: ask for access at ${page}, then put a token from https://huggingface.co/settings/tokens in HF_TOKEN (or saved by "hf auth login"), got HTTP 401`,
    );
    as('hf_other');
    expect(await refusalOf(pull())).toMatch(/the token has none yet .*got HTTP 403$/);
    as(GOOD_TOKEN);
    expectWhole((await pull()).folder);
  });

  it('the token is not told to another host', async () => {
    as(GOOD_TOKEN);
    await pull();
    const told = each.fake.requests.map(({ server, authorization }) => `${server} ${authorization}`);
    expect(new Set(told)).toEqual(new Set([`hub Bearer ${GOOD_TOKEN}`, 'cdn undefined']));
  });

  it('a token that is not one', async () => {
    as('nonsense');
    expect(await refusalOf(pull())).toMatch(
      /^owner\/model: the token was refused \(Invalid credentials.*settings\/tokens/,
    );
  });

  it.each([
    [
      'owner/modle',
      /expected a model on http.*, got none of that name \(HTTP 401\); did you mean owner\/model\?$/,
    ],
    ['starriver030515/FUSION-X-Phi3-3B', /did you mean starriver030515\/FUSION-X-Phi3\.5-3B\?$/],
    ['someone/else-entirely', /a private model needs a token from/],
    [
      `${ID}@mian`,
      /^owner\/model@mian: expected a branch, tag or commit, got HTTP 404; did you mean main\?$/,
    ],
    [`${ID}@release`, /there are main$/],
  ])('%s is not there', async (text, message) => {
    expect(await refusalOf(pullModel(parseHubId(text)!, {}, each.hub))).toMatch(message);
  });

  it.each([
    ['not JSON', 'hello', /expected JSON/],
    ['no commit', '{}', /sha: expected a commit/],
    ['no files', `{"sha":"${COMMIT_A}"}`, /siblings: expected a list of files, got nothing/],
    ['files without names', `{"sha":"${COMMIT_A}","siblings":[1]}`, /expected objects with rfilename, got 1/],
  ])('an answer that is %s', async (_name, text, message) => {
    each.fake.fault(/^hub:\/api/, (_request, response) => void response.end(text));
    expect(await refusalOf(pull())).toMatch(message);
  });
});
