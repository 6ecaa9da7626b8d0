/**
 * `fusion explain`: answers a question about an image, and shows where the model looked. Knows only how to read its
 * options and to write files.
 */
import { writeFile } from 'node:fs/promises';
import type { Command } from 'commander';
import { messageOf, UserError } from '../common/errors.ts';
import { jsonPieces } from '../common/jsonPieces.ts';
import type { RgbImage } from '../data/image.ts';
import type { Answer } from '../generate/answer.ts';
import type { Explanation } from '../generate/explain.ts';
import {
  type AnswerFlags,
  addAnswerOptions,
  addModelOptions,
  answerOptions,
  loadOptions,
  type ModelFlags,
  modelFolder,
  positive,
} from './options.ts';
import { note, screenProgress, shown } from './screen.ts';

interface ExplainFlags extends ModelFlags, AnswerFlags {
  readonly image: string;
  readonly out?: string;
  readonly json?: string;
  readonly layer?: number;
  readonly decoderLayer?: number;
  readonly token?: number;
}

const HELP = `
The picture shows, over the image: how its patches and the question attend to each other inside the vision tower;
how the latents attend to their windows in each interaction layer; how each token of the answer attends to the
image. All is the model's own attention in this answer, as means over heads. In every map the least value has the
darkest colour and the largest the brightest; both are written under it.

Examples:
  fusion explain --model DIR --image photo.jpg "What is on the table?" --out looked.png
  fusion explain --model DIR --image photo.jpg "How many?" --out looked.png --layer 20 --token 1 --json looked.json`;

export function registerExplain(program: Command): void {
  const command = program
    .command('explain')
    .description('answer a question about an image, and show where the model looked')
    .argument('<question>', 'the question in quotes')
    .requiredOption('-i, --image <file>', 'the image')
    .option('-o, --out <file>', 'the picture to write, a PNG file')
    .option('--json <file>', 'write the numbers to this file')
    .option('--layer <n>', 'this layer of the vision tower, from 1 (default: the mean of all)', positive)
    .option('--decoder-layer <n>', 'this layer of the decoder, from 1 (default: the mean of all)', positive)
    .option('--token <n>', 'only this token of the answer, from 1 (default: the first 12)', positive);
  addAnswerOptions(addModelOptions(command)).addHelpText('after', HELP).action(explainAnswer);
}

async function explainAnswer(question: string, flags: ExplainFlags): Promise<void> {
  checkOutputs(flags);
  const { checkAnswerOptions } = await import('../generate/answer.ts');
  const { checkFirstQuestion, conversationOf } = await import('../generate/chat.ts');
  const { explain } = await import('../generate/explain.ts');
  const { loadModel, readModelFiles } = await import('../generate/model.ts');
  const { openImage } = await import('../generate/picture.ts');
  const { checkChoice } = await import('./explainPanels.ts');
  checkAnswerOptions(answerOptions(flags));
  const { maxPixels, exifRotation } = flags;
  const image = await openImage(flags.image, { maxPixels, exifRotation });
  const files = await readModelFiles(await modelFolder(flags), flags);
  checkFirstQuestion(files, question, true, answerOptions(flags));
  checkChoice('layer (of the vision tower)', flags.layer, files.config.vision.layers);
  checkChoice('layer (of the decoder)', flags.decoderLayer, files.config.decoder.layers);
  if (!flags.quiet) files.warnings.forEach(note);
  const progress = screenProgress(flags.quiet ?? false);
  const model = await loadModel(files, loadOptions(flags, progress)).finally(() => progress.end());
  try {
    const conversation = await conversationOf(model, { text: question, image });
    const options = { ...answerOptions(flags), onProgress: progress };
    const { answer, explanation } = await explain(model, conversation, options);
    progress.end();
    process.stdout.write(`${shown(answer.text)}\n`);
    await writeOutputs(image, question, answer, explanation, flags);
  } finally {
    progress.end();
    await model.dispose();
  }
}

function checkOutputs({ out, json }: ExplainFlags): void {
  if (out === undefined && json === undefined) {
    throw new UserError('output: expected --out FILE.png or --json FILE, got neither');
  }
  if (out !== undefined && !/\.png$/i.test(out)) {
    throw new UserError(`--out: expected the name of a .png file, got ${out}`);
  }
}

async function writeOutputs(
  image: RgbImage,
  question: string,
  answer: Answer,
  explanation: Explanation,
  flags: ExplainFlags,
): Promise<void> {
  const { panelGroups, shortened } = await import('./explainPanels.ts');
  const groups = panelGroups(explanation, flags);
  if (flags.out !== undefined) {
    const { drawExplanation } = await import('./explainPicture.ts');
    await write(flags.out, await drawExplanation(image, question, answer.text, groups.map(shortened)));
  }
  if (flags.json !== undefined) {
    const { explanationJson } = await import('../generate/explainJson.ts');
    await write(flags.json, jsonPieces({ text: answer.text, ...explanationJson(explanation) }));
  }
}

async function write(file: string, content: Uint8Array | Iterable<string>): Promise<void> {
  await writeFile(file, content).catch((error: unknown) => {
    throw new UserError(`${file}: expected a file to write to, got an error: ${messageOf(error)}`);
  });
}
