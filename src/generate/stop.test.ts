import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { UserError } from '../common/errors.ts';
import { StopMatcher } from './stop.ts';

/** Text over an alphabet of three, so that matches and near matches are common. */
const text = (minLength: number, maxLength: number) =>
  fc.array(fc.constantFrom('a', 'b', 'c'), { minLength, maxLength }).map((letters) => letters.join(''));

/** The whole text's first stop string, found the plain way. */
function reference(whole: string, stops: readonly string[]): { kept: string; matched: string | undefined } {
  for (let start = 0; start < whole.length; start++) {
    const here = stops.filter((stop) => whole.startsWith(stop, start)).sort((a, b) => a.length - b.length);
    if (here[0] !== undefined) return { kept: whole.slice(0, start), matched: here[0] };
  }
  return { kept: whole, matched: undefined };
}

function split(whole: string, cuts: readonly number[]): string[] {
  const borders = [0, ...cuts.map((c) => c % (whole.length + 1)).sort((a, b) => a - b), whole.length];
  return borders.slice(1).map((end, i) => whole.slice(borders[i], end));
}

describe('StopMatcher', () => {
  it('cuts at the first stop string, however the text is split', () => {
    fc.assert(
      fc.property(
        text(0, 30),
        fc.array(text(1, 5), { maxLength: 4 }),
        fc.array(fc.nat(), { maxLength: 12 }),
        (whole, stops, cuts) => {
          const matcher = new StopMatcher(stops);
          let shown = '';
          for (const piece of split(whole, cuts)) shown += matcher.push(piece).emit;
          shown += matcher.flush();
          const { kept, matched } = reference(whole, stops);
          expect(shown).toBe(kept);
          expect(matcher.matched).toBe(matched);
        },
      ),
      { numRuns: 2000 },
    );
  });

  it('holds back no more than could begin a stop string', () => {
    fc.assert(
      fc.property(text(0, 20), fc.array(text(1, 5), { minLength: 1, maxLength: 3 }), (whole, stops) => {
        const matcher = new StopMatcher(stops);
        let held = '';
        for (const letter of whole) {
          const { emit, stopped } = matcher.push(letter);
          if (stopped) return;
          held = (held + letter).slice(emit.length);
          expect(
            held === '' || stops.some((stop) => stop.length > held.length && stop.startsWith(held)),
          ).toBe(true);
        }
      }),
    );
  });

  it('finds a stop string across pieces and shows nothing of it', () => {
    const matcher = new StopMatcher(['</s>', '\nUser:']);
    expect(matcher.push('Yes.\nUs')).toEqual({ emit: 'Yes.', stopped: false });
    expect(matcher.push('e a <')).toEqual({ emit: '\nUse a ', stopped: false });
    expect(matcher.push('/s>tail')).toEqual({ emit: '', stopped: true, matched: '</s>' });
    expect(matcher.push('more')).toEqual({ emit: '', stopped: true, matched: '</s>' });
    expect(matcher.flush()).toBe('');
  });

  it('lets a longer stop string that began earlier decide first', () => {
    const matcher = () => new StopMatcher(['abc', 'b']);
    expect(matcher().push('abc')).toEqual({ emit: '', stopped: true, matched: 'abc' });
    const undecided = matcher();
    expect(undecided.push('ab')).toEqual({ emit: '', stopped: false });
    expect(undecided.push('d')).toEqual({ emit: 'a', stopped: true, matched: 'b' });
    const ended = matcher();
    ended.push('ab');
    expect(ended.flush()).toBe('a');
    expect(ended.matched).toBe('b');
  });

  it('stops at once at the shorter of two that begin together', () => {
    expect(new StopMatcher(['ab', 'a']).push('xa')).toEqual({ emit: 'x', stopped: true, matched: 'a' });
    expect(new StopMatcher(['ab', 'a']).push('xab')).toEqual({ emit: 'x', stopped: true, matched: 'a' });
  });

  it('gives everything back when the stream ends, and passes all text without stop strings', () => {
    const matcher = new StopMatcher(['stop']);
    expect(matcher.push('full st').emit).toBe('full ');
    expect(matcher.flush()).toBe('st');
    expect(matcher.flush()).toBe('');
    expect(new StopMatcher([]).push('all')).toEqual({ emit: 'all', stopped: false });
  });

  it('refuses empty stop strings', () => {
    expect(() => new StopMatcher(['a', ''])).toThrow(
      new UserError("stop: expected non-empty strings, got '' at position 2 of 2"),
    );
  });
});
