import { expect, test, vi } from 'vitest';
import { eventStream } from './eventStream.ts';

const quiet = { pingEvery: 1e6, ping: () => 'ping' };
const soon = () => new Promise((resolve) => setTimeout(resolve));

test('events are JSON or the text itself, each in a line of its own', async () => {
  const response = eventStream(async ({ send }) => {
    await send({ text: 'a\nb' });
    await send('[DONE]');
  }, quiet);
  expect(response.headers.get('content-type')).toBe('text/event-stream; charset=utf-8');
  expect(await response.text()).toBe('data: {"text":"a\\nb"}\n\ndata: [DONE]\n\n');
});

test('the first event goes at once, those shortly after it together', async () => {
  vi.useFakeTimers();
  try {
    const response = eventStream(async ({ send }) => {
      for (const pause of [0, 3, 3, 30, 3]) {
        await new Promise((resolve) => setTimeout(resolve, pause));
        await send(pause);
      }
    }, quiet);
    const packets: string[] = [];
    const times: number[] = [];
    const start = Date.now();
    const reading = (async () => {
      for await (const packet of response.body!) {
        packets.push(new TextDecoder().decode(packet as Uint8Array));
        times.push(Date.now() - start);
      }
    })();
    await vi.advanceTimersByTimeAsync(100);
    await reading;
    expect(packets).toEqual(['data: 0\n\n', 'data: 3\n\ndata: 3\n\n', 'data: 30\n\n', 'data: 3\n\n']);
    expect(times.map((time) => 10 * Math.round(time / 10))).toEqual([0, 10, 40, 40]);
  } finally {
    vi.useRealTimers();
  }
});

test('silence is filled with comments, and only silence', async () => {
  vi.useFakeTimers();
  try {
    let pings = 0;
    const response = eventStream(
      async ({ send }) => {
        for (const pause of [90, 90, 90, 250]) {
          await new Promise((resolve) => setTimeout(resolve, pause));
          await send(pause);
        }
      },
      { pingEvery: 100, ping: () => `still ${++pings}` },
    );
    const text = response.text();
    await vi.advanceTimersByTimeAsync(1000);
    expect(await text).toBe('data: 90\n\ndata: 90\n\ndata: 90\n\n: still 1\n\n: still 2\n\ndata: 250\n\n');
  } finally {
    vi.useRealTimers();
  }
});

test('a client that reads slowly holds the writer up; one that leaves does not', async () => {
  const piece = 'x'.repeat(400_000);
  let sent = 0;
  let ended = false;
  const response = eventStream(async ({ send }) => {
    for (; sent < 10; sent++) await send(piece);
    ended = true;
  }, quiet);
  const reader = response.body!.getReader();
  await soon();
  expect(sent).toBe(2);
  await reader.read();
  await reader.read();
  await soon();
  expect(sent).toBe(4);
  await reader.cancel();
  await soon();
  expect([sent, ended]).toEqual([10, true]);
});
