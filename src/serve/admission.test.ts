import { expect, test } from 'vitest';
import { Admission, type Place } from './admission.ts';
import type { ApiError } from './apiError.ts';

const never = new AbortController().signal;
const soon = () => new Promise((resolve) => setTimeout(resolve));

/** Enters and notes in `order` when the turn comes. */
function enter(
  admission: Admission,
  order: string[],
  name: string,
  signal = never,
): Place & { turned: Promise<void> } {
  const place = admission.enter();
  const turned = place.turn(signal).then(() => {
    order.push(name);
  });
  turned.catch(() => {});
  return Object.assign(place, { turned });
}

test('turns come in the order of arrival, never more than there are slots', async () => {
  const admission = new Admission({ slots: 2, queue: 9 });
  const order: string[] = [];
  const places = ['a', 'b', 'c', 'd', 'e'].map((name) => enter(admission, order, name));
  await soon();
  expect(order).toEqual(['a', 'b']);
  expect([admission.running, admission.waiting]).toEqual([2, 3]);
  expect(places.map((place) => place.ahead())).toEqual([0, 0, 1, 2, 3]);
  places[1]?.leave();
  // Who comes now may not take the slot that was just freed.
  const late = enter(admission, order, 'late');
  await soon();
  expect(order).toEqual(['a', 'b', 'c']);
  for (const place of [...places, late]) {
    await soon();
    place.leave();
  }
  expect(order).toEqual(['a', 'b', 'c', 'd', 'e', 'late']);
  expect([admission.running, admission.waiting]).toEqual([0, 0]);
});

test('who gives up while waiting takes no slot', async () => {
  const admission = new Admission({ slots: 1, queue: 9 });
  const order: string[] = [];
  const leaving = new AbortController();
  const first = enter(admission, order, 'first');
  const second = enter(admission, order, 'second', leaving.signal);
  const third = enter(admission, order, 'third');
  leaving.abort(new Error('left'));
  await expect(second.turned).rejects.toThrow('left');
  second.leave();
  expect([admission.running, admission.waiting]).toEqual([1, 1]);
  first.leave();
  first.leave();
  await third.turned;
  expect(admission.running).toBe(1);
  third.leave();
  expect([order, admission.running]).toEqual([['first', 'third'], 0]);
  await expect(admission.enter().turn(leaving.signal)).rejects.toThrow('left');
});

test('who leaves in the moment of being called gives the slot to the next', async () => {
  const admission = new Admission({ slots: 1, queue: 9 });
  const places = ['a', 'b', 'c', 'd'].map((name) => enter(admission, [], name));
  for (const place of places.slice(0, 3)) place.leave();
  await places[3]?.turned;
  expect([admission.running, admission.waiting]).toEqual([1, 0]);
  places[3]?.leave();
  expect([admission.running, admission.waiting]).toEqual([0, 0]);
});

test('beyond the bound it says when to come again', async () => {
  const admission = new Admission({ slots: 1, queue: 1 });
  const places = [enter(admission, [], 'a'), enter(admission, [], 'b')];
  await soon();
  const refused = () => {
    try {
      admission.enter().leave();
    } catch (error) {
      return error as ApiError;
    }
    throw new Error('not refused');
  };
  expect(refused()).toMatchObject({
    status: 429,
    details: { code: 'queue_full', headers: { 'Retry-After': '10' } },
  });
  places[0]?.leave();
  admission.enter().leave();
  expect(admission.waiting + admission.running).toBe(1);
});
