/**
 * The memory that this process may still take. Knows nothing of what it is for. Source: Linux's /proc/meminfo and the
 * memory controllers of control groups, versions 1 and 2.
 */
import { readFileSync } from 'node:fs';
import { freemem, totalmem } from 'node:os';
import path from 'node:path';

/** In bytes. */
export interface MachineMemory {
  /** What can be taken without swapping: unused, or used only to cache files. */
  readonly available: number;
  /** What there is, or the process is allowed. */
  readonly total: number;
}

/** A file's text; undefined where it cannot be read. */
export type ReadText = (file: string) => string | undefined;

const CGROUPS = '/sys/fs/cgroup';

/** Names of a control group's files in the two versions, and of what its `memory.stat` calls cached files. */
const VERSIONS = [
  {
    pattern: /^0::(.*)$/m,
    root: CGROUPS,
    limit: 'memory.max',
    used: 'memory.current',
    stat: ['inactive_file', 'active_file'],
  },
  {
    pattern: /^\d+:(?:\w+,)*memory(?:,\w+)*:(.*)$/m,
    root: path.posix.join(CGROUPS, 'memory'),
    limit: 'memory.limit_in_bytes',
    used: 'memory.usage_in_bytes',
    stat: ['total_inactive_file', 'total_active_file'],
  },
] as const;

/**
 * The machine's memory, or what control groups leave of it. Off Linux: what the system calls free on Windows; all there
 * is elsewhere, where memory that caches files does not count as free.
 */
export function machineMemory(read: ReadText = readText, platform: string = process.platform): MachineMemory {
  const total = totalmem();
  if (platform !== 'linux') return { available: platform === 'win32' ? freemem() : total, total };
  const kilobytes = /^MemAvailable: +(\d+) kB$/m.exec(read('/proc/meminfo') ?? '')?.[1];
  const machine = { available: kilobytes === undefined ? freemem() : 1024 * Number(kilobytes), total };
  return groupsOf(read).reduce(
    (least, group) => ({
      available: Math.min(least.available, group.available),
      total: Math.min(least.total, group.total),
    }),
    machine,
  );
}

/** What each control group around this process, up to the root, leaves of its limit. */
function groupsOf(read: ReadText): readonly MachineMemory[] {
  const membership = read('/proc/self/cgroup') ?? '';
  return VERSIONS.flatMap(({ pattern, root, limit, used, stat }) => {
    const own = pattern.exec(membership)?.[1];
    if (own === undefined) return [];
    return foldersUp(own).flatMap((folder) => {
      const file = (name: string) => read(path.posix.join(root, folder, name))?.trim();
      const [total, taken] = [Number(file(limit)), Number(file(used))];
      if (!Number.isFinite(total) || !Number.isFinite(taken)) return [];
      const table = file('memory.stat') ?? '';
      const cached = stat.reduce(
        (sum, name) => sum + Number(new RegExp(`^${name} (\\d+)$`, 'm').exec(table)?.[1] ?? 0),
        0,
      );
      return [{ available: Math.max(0, total - taken + cached), total }];
    });
  });
}

/** `/a/b` → `/a/b`, `/a`, `/`. In a container the path may be the host's; the root is then the container's own group. */
function foldersUp(folder: string): readonly string[] {
  const parts = folder.split('/').filter((part) => part !== '' && part !== '..');
  return Array.from({ length: parts.length + 1 }, (_, i) => `/${parts.slice(0, parts.length - i).join('/')}`);
}

function readText(file: string): string | undefined {
  try {
    return readFileSync(file, 'utf8');
  } catch {
    return undefined;
  }
}
