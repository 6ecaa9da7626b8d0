/**
 * What people think of answers, one JSON object a line, as the Python demo keeps it. Images are kept as their
 * SHA-256. Knows nothing of models.
 */
import { createHash } from 'node:crypto';
import { appendFile, stat } from 'node:fs/promises';
import { z } from 'zod';
import { ApiError } from './apiError.ts';
import { readFields } from './chatRequest.ts';

const MAX_TEXT = 100_000;
const MAX_FILE_BYTES = 100_000_000;

const text = z.string().max(MAX_TEXT);
const imageUrl = z.union([z.string(), z.object({ url: z.string() })]);
const part = z.discriminatedUnion('type', [
  z.object({ type: z.literal('text'), text }),
  z.object({ type: z.literal('image_url'), image_url: imageUrl }),
]);
const content = z.union([text, z.array(part).max(1000)]);

const voteBody = z.object({
  vote: z.enum(['like', 'dislike', 'flag'], { error: 'expected "like", "dislike" or "flag"' }),
  model: z.string().max(256).nullish(),
  comment: text.nullish(),
  messages: z
    .array(z.object({ role: z.enum(['system', 'developer', 'user', 'assistant']), content }))
    .min(1)
    .max(2000),
});
type Vote = z.infer<typeof voteBody>;

/**
 * Adds a vote to a file.
 *
 * @throws ApiError 400 for a body that is none, 507 where the file has reached 100 MB.
 */
export async function addVote(file: string, json: unknown): Promise<void> {
  const line = `${JSON.stringify(entryOf(readFields(voteBody, json)))}\n`;
  const size = (await stat(file).catch(() => undefined))?.size ?? 0;
  if (size + Buffer.byteLength(line) > MAX_FILE_BYTES) {
    throw new ApiError(507, 'the file of votes is full; the vote was not kept');
  }
  await appendFile(file, line, { mode: 0o600 });
}

function entryOf({ vote, model, comment, messages }: Vote) {
  const kept = messages.map(({ role, content }) => ({
    role,
    content: typeof content === 'string' ? content : content.map(keptPart),
  }));
  return {
    time: new Date().toISOString(),
    vote,
    model: model ?? null,
    comment: comment ?? null,
    messages: kept,
  };
}

function keptPart(each: z.infer<typeof part>) {
  if (each.type === 'text') return each;
  const url = typeof each.image_url === 'string' ? each.image_url : each.image_url.url;
  return { type: 'image', sha256: createHash('sha256').update(url).digest('hex') };
}
