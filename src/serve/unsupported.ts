/**
 * Fields of OpenAI's chat format that would change the answer and that FUSION cannot honour: refused by name, so
 * that nobody takes an answer without them for one with them.
 */
import { ApiError } from './apiError.ts';

type Fields = Readonly<Record<string, unknown>>;

const isEmpty = (value: unknown) =>
  (Array.isArray(value) && value.length === 0) ||
  (typeof value === 'object' && value !== null && Object.keys(value).length === 0);

const isText = (value: unknown) =>
  typeof value === 'object' && value !== null && 'type' in value && value.type === 'text';

/** For each field: which values mean what is done anyway, and what to do instead of others. */
const UNSUPPORTED: Readonly<
  Record<string, readonly [harmless: (value: unknown) => boolean, advice: string]>
> = {
  n: [(value) => value === 1, 'expected 1: one answer a request; send the request again for another'],
  tools: [isEmpty, 'this model calls no tools; leave it out'],
  functions: [isEmpty, 'this model calls no functions; leave it out'],
  tool_choice: [(value) => value === 'none' || value === 'auto', 'this model calls no tools; leave it out'],
  function_call: [
    (value) => value === 'none' || value === 'auto',
    'this model calls no functions; leave it out',
  ],
  response_format: [isText, 'expected {"type": "text"}; ask for JSON in the question'],
  logit_bias: [isEmpty, 'not supported; leave it out'],
  presence_penalty: [(value) => value === 0, 'not supported; repetition_penalty is the nearest'],
  frequency_penalty: [(value) => value === 0, 'not supported; repetition_penalty is the nearest'],
  modalities: [
    (value) => Array.isArray(value) && value.every((each) => each === 'text'),
    'expected ["text"]; answers are text',
  ],
  audio: [() => false, 'not supported; answers are text'],
  web_search_options: [() => false, 'not supported; leave it out'],
};

/** @throws ApiError 400 for the first field that is there and asks for something that cannot be done. */
export function refuseUnsupported(json: unknown): void {
  if (typeof json !== 'object' || json === null) return;
  for (const [field, [harmless, advice]] of Object.entries(UNSUPPORTED)) {
    const value = (json as Fields)[field];
    if (value === undefined || value === null || harmless(value)) continue;
    throw new ApiError(400, `${field}: ${advice}`, { param: field, code: 'unsupported_parameter' });
  }
}
