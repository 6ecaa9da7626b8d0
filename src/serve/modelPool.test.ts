import { expect, test } from 'vitest';
import { door, fakeModel } from '../../test/support/fakeModel.ts';
import { type Lease, ModelPool } from './modelPool.ts';

const never = new AbortController().signal;
const soon = () => new Promise((resolve) => setTimeout(resolve));
const poolOf = (limit: number, log: unknown[] = []) => new ModelPool(limit, (error) => log.push(error));

test('a model is loaded once for all who ask, and stays', async () => {
  const { pause, open } = door();
  const model = fakeModel({ loading: pause });
  const pool = poolOf(10);
  const leases = [pool.acquire(model, never), pool.acquire(model, never)];
  await soon();
  expect(pool.stateOf(model)).toMatchObject({ state: 'loading' });
  open();
  for (const lease of leases) (await lease).release();
  (await pool.acquire(model, never)).release();
  expect([model.loads, model.live, pool.stateOf(model).state]).toEqual([1, 1, 'loaded']);
  await pool.close();
  expect([model.live, pool.stateOf(model).state]).toEqual([0, 'unloaded']);
});

test('the model unused longest makes room, one in use never', async () => {
  const [a, b, c] = ['a', 'b', 'c'].map((name) => fakeModel({ name, bytes: 4 })) as [
    ReturnType<typeof fakeModel>,
    ReturnType<typeof fakeModel>,
    ReturnType<typeof fakeModel>,
  ];
  const pool = poolOf(10);
  for (const model of [a, b, a]) (await pool.acquire(model, never)).release();
  (await pool.acquire(c, never)).release();
  expect([a.live, b.live, c.live]).toEqual([1, 0, 1]);
  const held = [await pool.acquire(a, never), await pool.acquire(c, never)];
  let got: Lease | undefined;
  const waiting = pool.acquire(b, never).then((lease) => {
    got = lease;
  });
  // Those who want what is loaded wait behind the one who waits for room, or it would wait for ever.
  const behind = pool.acquire(a, never);
  await soon();
  expect([got, b.live]).toEqual([undefined, 0]);
  held[0]?.release();
  await waiting;
  expect([a.live, b.live, c.live]).toEqual([0, 1, 1]);
  got?.release();
  held[1]?.release();
  (await behind).release();
  expect([a.live, a.loads]).toEqual([1, 2]);
  await pool.close();
});

test('who gives up while waiting for room lets the next in', async () => {
  const [a, b] = [fakeModel({ name: 'a', bytes: 8 }), fakeModel({ name: 'b', bytes: 8 })];
  const pool = poolOf(10);
  const held = await pool.acquire(a, never);
  const leaving = new AbortController();
  const left = pool.acquire(b, leaving.signal);
  const next = pool.acquire(a, never);
  leaving.abort(new Error('left'));
  await expect(left).rejects.toThrow('left');
  (await next).release();
  held.release();
  expect(b.loads).toBe(0);
});

test('a load that fails is told to those who wait, and tried again', async () => {
  let failures = 1;
  const model = fakeModel({
    loading: async () => (failures-- > 0 ? Promise.reject(new Error('damaged')) : undefined),
  });
  const pool = poolOf(10);
  const [first, second] = [pool.acquire(model, never), pool.acquire(model, never)];
  await expect(first).rejects.toMatchObject({ status: 503, cause: new Error('damaged') });
  await expect(second).rejects.toMatchObject({ status: 503 });
  (await pool.acquire(model, never)).release();
  expect(model.live).toBe(1);
});

test('a model that failed leaves when nobody uses it, and its memory is free then', async () => {
  const model = fakeModel({ bytes: 8 });
  const pool = poolOf(10);
  const [broken, other] = [await pool.acquire(model, never), await pool.acquire(model, never)];
  broken.release(true);
  const fresh = pool.acquire(model, never);
  await soon();
  expect([model.loads, model.live]).toEqual([1, 1]);
  other.release();
  (await fresh).release();
  expect([model.loads, model.live]).toEqual([2, 1]);
});
