import { expect, test } from 'vitest';
import { Counter, exposition, gauge, Histogram } from './metrics.ts';

test('counters, gauges and histograms are written as Prometheus reads them', () => {
  const counter = new Counter('c_total', 'Counted.');
  counter.add(1, { route: '/a', status: '200' });
  counter.add(2, { route: '/a', status: '200' });
  counter.add(1, { route: 'x"\n\\', status: '404' });
  const histogram = new Histogram('h_seconds', 'Measured.', [0.1, 1]);
  for (const value of [0.05, 0.1, 0.5, 3]) histogram.observe(value);
  expect(exposition([counter, gauge('g', 'Read.', () => 7), histogram])).toBe(
    [
      '# HELP c_total Counted.',
      '# TYPE c_total counter',
      'c_total{route="/a",status="200"} 3',
      'c_total{route="x\\"\\n\\\\",status="404"} 1',
      '# HELP g Read.',
      '# TYPE g gauge',
      'g 7',
      '# HELP h_seconds Measured.',
      '# TYPE h_seconds histogram',
      'h_seconds_bucket{le="0.1"} 2',
      'h_seconds_bucket{le="1"} 3',
      'h_seconds_bucket{le="+Inf"} 4',
      'h_seconds_sum 3.65',
      'h_seconds_count 4',
      '',
    ].join('\n'),
  );
});
