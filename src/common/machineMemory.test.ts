import { freemem, totalmem } from 'node:os';
import { expect, it } from 'vitest';
import { machineMemory, type ReadText } from './machineMemory.ts';

const MEMINFO = 'MemTotal:       99999999 kB\nMemFree:          100 kB\nMemAvailable:    2000000 kB\n';
const files = (table: Readonly<Record<string, string>>): ReadText => {
  const all: Readonly<Record<string, string>> = { '/proc/meminfo': MEMINFO, ...table };
  return (file) => all[file];
};
const GROUP = '/sys/fs/cgroup/a/b';

it('takes what Linux calls available, which is more than what is unused', () => {
  expect(machineMemory(files({}), 'linux')).toEqual({ available: 2_048_000_000, total: totalmem() });
});

it('a control group leaves its limit less what it uses, files it caches apart', () => {
  const group = {
    '/proc/self/cgroup': '0::/a/b\n',
    [`${GROUP}/memory.max`]: '1000000\n',
    [`${GROUP}/memory.current`]: '900000\n',
    [`${GROUP}/memory.stat`]: 'anon 400000\nfile 500000\ninactive_file 300000\nactive_file 100000\n',
  };
  expect(machineMemory(files(group), 'linux')).toEqual({ available: 500_000, total: 1_000_000 });
  const within = { '/sys/fs/cgroup/a/memory.max': '990000', '/sys/fs/cgroup/a/memory.current': '980000' };
  expect(machineMemory(files({ ...group, ...within }), 'linux')).toEqual({
    available: 10_000,
    total: 990_000,
  });
  const unlimited = files({ ...group, [`${GROUP}/memory.max`]: 'max\n' });
  expect(machineMemory(unlimited, 'linux').available).toBe(2_048_000_000);
});

it('reads version 1, and a container that sees its group as the root', () => {
  const group = {
    '/proc/self/cgroup': '5:cpu,cpuacct:/x\n4:hugetlb,memory:/docker/1\n0::/y\n',
    '/sys/fs/cgroup/memory/memory.limit_in_bytes': '3000',
    '/sys/fs/cgroup/memory/memory.usage_in_bytes': '2500',
    '/sys/fs/cgroup/memory/memory.stat': 'inactive_file 7\ntotal_inactive_file 200\ntotal_active_file 100\n',
  };
  expect(machineMemory(files(group), 'linux')).toEqual({ available: 800, total: 3000 });
});

it('elsewhere the system says it', () => {
  expect(machineMemory(files({}), 'darwin')).toEqual({ available: totalmem(), total: totalmem() });
  expect(machineMemory(files({}), 'win32').available / freemem()).toBeCloseTo(1, 0);
  const here = machineMemory();
  expect(here.available).toBeGreaterThan(0);
  expect(here.available).toBeLessThanOrEqual(here.total);
});
