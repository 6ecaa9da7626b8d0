/**
 * The pass over the data sets of all stages before any of them is trained. Knows the stages' keys and how to tell
 * what was found.
 */
import { UserError } from '../common/errors.ts';
import { checkData, type DataReport } from '../data/checkData.ts';
import { openDataset } from '../data/dataset.ts';
import { readFusionConfig } from '../model/config.ts';
import type { StageConfig } from './config.ts';
import { sampleSizes } from './datasetSource.ts';
import { openEncoder } from './openSource.ts';

/**
 * Walks the stages' data sets and tells counts, reasons and the first skipped samples by `print`, line by line.
 * base: the checkpoint whose tokenizer and sizes rule. Throws `UserError` where more is skipped than a stage's
 * `skip_limit`.
 */
export async function checkStageData(
  stages: readonly StageConfig[],
  base: string,
  print: (line: string) => void,
): Promise<void> {
  const { tokenizer, format, config } = await openEncoder(await readFusionConfig(base), base);
  for (const stage of stages) {
    if (typeof stage.data !== 'string') {
      print(`stage ${stage.stage}: synthetic samples, nothing to check`);
      continue;
    }
    const dataset = await openDataset(stage.data, { seed: stage.seed });
    const sizes = sampleSizes(stage, config);
    try {
      const report = await checkData(dataset, { tokenizer, format, sizes, tooLong: 'cut' });
      for (const line of linesOf(stage, report)) print(line);
      refuseTooMany(stage, report);
    } finally {
      await dataset.close();
    }
  }
}

function linesOf(stage: StageConfig, { seen, withImage, skipped, counts, examples }: DataReport): string[] {
  const reasons = Object.entries(counts).map(([kind, count]) => `  ${kind}: ${count}`);
  const first = examples.map(
    ({ file, index, kind, reason }) => `  ${file}: record ${index}: ${kind}: ${reason}`,
  );
  return [
    `stage ${stage.stage}: ${stage.data}: ${seen} samples, ${withImage} with an image, ${skipped} to be skipped`,
    ...reasons,
    ...first,
  ];
}

function refuseTooMany(stage: StageConfig, { seen, skipped }: DataReport): void {
  if (skipped <= stage.skip_limit * seen) return;
  throw new UserError(
    `stage ${stage.stage}: data: expected at most ${100 * stage.skip_limit}% of samples skipped, got ${skipped} of ` +
      `${seen}; mend the data or raise skip_limit`,
  );
}
