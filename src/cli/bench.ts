/**
 * `fusion bench`: how fast a model answers here, beside what this machine can do. Knows only how to read its options and
 * to print the figures.
 */
import type { Command } from 'commander';
import type { Benchmark } from '../generate/benchmark.ts';
import type { FusionModel } from '../generate/model.ts';
import { addModelOptions, integer, loadOptions, type ModelFlags, modelFolder, positive } from './options.ts';
import { note, screenProgress } from './screen.ts';

interface BenchFlags extends ModelFlags {
  readonly promptTokens?: number;
  readonly newTokens: number;
  readonly queryLen?: number;
  readonly repeats: number;
  readonly json?: boolean;
}

/** What is printed. */
interface Report extends Benchmark {
  readonly model: string;
  readonly weights: string;
  readonly device: string;
  readonly threads: number;
  /** Bytes a second. */
  readonly readRate: number;
  /** Bytes of weights a second in products with one row. */
  readonly rowRate: number;
  /** Operations a second. */
  readonly productRate: { readonly f32: number; readonly own: number };
  /** Of the limit: bytes of weights and cache ÷ the rate of reading; operations of products ÷ their rate. */
  readonly shares: { readonly decode: number; readonly prefill: number };
}

const HELP = `
A picture of random pixels, a prompt of the wanted length (picture included) and tokens after it; medians of repeats,
after a warm-up. Beside them what this machine reaches now with the same threads: reading memory (512 MiB), and
products with matrices of the decoder's sizes, with one row and with many, as the model's weights are kept and in f32.
"of the limit" is how near decoding comes to reading each weight and the cache once per token, and the prompt to its
products alone.

Examples:
  fusion bench --model DIR
  fusion bench --model DIR --weights int4 --prompt-tokens 871 --threads 2 --json`;

export function registerBench(program: Command): void {
  const command = program
    .command('bench')
    .description('measure how fast a model answers here, and how near that is to what the machine can do');
  addModelOptions(command)
    .option(
      '--prompt-tokens <n>',
      'positions of the prompt (default: a picture and a short question)',
      positive,
    )
    .option('--new-tokens <n>', 'tokens to decode', positive, 32)
    .option('--query-len <n>', 'latent tokens per question, a perfect square', integer)
    .option('--repeats <n>', 'measurements, after one that does not count', positive, 3)
    .option('--json', 'print the figures as JSON')
    .addHelpText('after', HELP)
    .action(bench);
}

async function bench(flags: BenchFlags): Promise<void> {
  const { loadModel } = await import('../generate/model.ts');
  const progress = screenProgress(flags.quiet ?? false);
  const dir = await modelFolder(flags);
  const use = { queryLength: flags.queryLen, asksAgain: true };
  const model = await loadModel(dir, loadOptions(flags, progress, use)).finally(() => progress.end());
  try {
    if (!flags.quiet) model.warnings.forEach(note);
    const report = await measured(model, flags, progress);
    progress.end();
    process.stdout.write(flags.json ? json(report) : table(report));
  } finally {
    progress.end();
    await model.dispose();
  }
}

async function measured(
  model: FusionModel,
  { promptTokens, newTokens, queryLen: queryLength, repeats }: BenchFlags,
  onProgress: ReturnType<typeof screenProgress>,
): Promise<Report> {
  const { benchmark } = await import('../generate/benchmark.ts');
  const { floatProductRate, layerProductRate, readRate, rowProductRate } = await import(
    '../generate/machineSpeed.ts'
  );
  const { decodeBytes, prefillOperations } = await import('../generate/workload.ts');
  const { PROMPT_CHUNK } = await import('../generate/stagedPrograms.ts');
  const { readQuantization } = await import('../checkpoint/quantise/formats.ts');
  const { config, device, dir } = model;
  const formats = (await readQuantization(dir))?.formats;
  const speed = await benchmark(model, { promptTokens, newTokens, queryLength, repeats, onProgress });
  const rows = formats === undefined ? speed.promptTokens : Math.min(PROMPT_CHUNK, speed.promptTokens);
  const productRate = { f32: await floatProductRate(model, rows), own: await layerProductRate(model, rows) };
  const reading = await readRate(device);
  const rowRate = await rowProductRate(model);
  const bytes = decodeBytes(config, formats, speed.promptTokens + newTokens / 2);
  const operations = prefillOperations(config, speed.promptTokens, speed.queryLength);
  return {
    model: dir,
    weights: formats?.decoder ?? 'f32',
    device: device.name,
    threads: device.threads,
    ...speed,
    readRate: reading,
    rowRate,
    productRate,
    shares: {
      decode: bytes / reading / speed.seconds.decode,
      prefill: operations / productRate.own / speed.seconds.prefill,
    },
  };
}

/** A row: what, its figure, more about it. */
type Row = readonly [name: string, value: string, more?: string];

function table(report: Report): string {
  const { model, weights, device, threads } = report;
  const head = `${model}: ${weights}, ${device}, ${threads} ${threads === 1 ? 'thread' : 'threads'}`;
  const lines = [...modelRows(report), ...machineRows(report)].map(([name, value, more = '']) =>
    `${name.padEnd(15)}${value.padStart(15)}  ${more}`.trimEnd(),
  );
  return `${[head, ...lines].join('\n')}\n`;
}

function modelRows({ seconds, shares, promptTokens, newTokens, peakMemory }: Report): readonly Row[] {
  const second = `${duration(seconds.secondVision)}, ${percent(seconds.secondVision / seconds.vision)}`;
  const prompt = `${promptTokens} positions in ${duration(seconds.prefill)}`;
  return [
    ['load', duration(seconds.load)],
    ['vision', duration(seconds.vision), `a second question about the picture: ${second}`],
    [
      'prefill',
      rate(promptTokens / seconds.prefill, 'tokens/s'),
      `${prompt}; ${percent(shares.prefill)} of the limit`,
    ],
    [
      'decode',
      rate(1 / seconds.decode, 'tokens/s'),
      `median of ${newTokens} tokens; ${percent(shares.decode)} of the limit`,
    ],
    ['peak memory', `${(peakMemory / 1e9).toFixed(2)} GB`],
  ];
}

function machineRows({ readRate, rowRate, productRate, weights }: Report): readonly Row[] {
  const f32 = rate(productRate.f32 / 1e9, 'GFLOP/s');
  return [
    ['memory reads', rate(readRate / 1e9, 'GB/s'), 'the limit of decode'],
    [`one row ${weights}`, rate(rowRate / 1e9, 'GB/s'), 'weights that its products get through'],
    ...(weights === 'f32' ? [] : [['products f32', f32] as const]),
    [`products ${weights}`, rate(productRate.own / 1e9, 'GFLOP/s'), 'the limit of prefill'],
  ];
}

function json(report: Report): string {
  const { seconds, shares, productRate, readRate, rowRate } = report;
  const shown = {
    model: report.model,
    weights: report.weights,
    device: report.device,
    threads: report.threads,
    prompt_tokens: report.promptTokens,
    new_tokens: report.newTokens,
    query_length: report.queryLength,
    load_seconds: seconds.load,
    vision_seconds: seconds.vision,
    second_question_vision_seconds: seconds.secondVision,
    second_question_vision_share: seconds.secondVision / seconds.vision,
    prefill_seconds: seconds.prefill,
    prefill_tokens_per_second: report.promptTokens / seconds.prefill,
    prefill_share_of_limit: shares.prefill,
    decode_tokens_per_second: 1 / seconds.decode,
    decode_share_of_limit: shares.decode,
    peak_memory_bytes: report.peakMemory,
    memory_read_bytes_per_second: readRate,
    one_row_bytes_per_second: rowRate,
    product_flops: { f32: productRate.f32, weights: productRate.own },
  };
  return `${JSON.stringify(shown, undefined, 2)}\n`;
}

const percent = (share: number): string => `${(100 * share).toFixed(0)}%`;
const duration = (seconds: number): string => `${seconds.toFixed(seconds < 10 ? 3 : 1)} s`;
const rate = (value: number, unit: string): string => `${value.toFixed(value < 100 ? 1 : 0)} ${unit}`;
