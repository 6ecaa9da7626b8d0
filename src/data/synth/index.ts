/** Language-driven synthetic data: scenes, pictures, conversations, data sets. */
export {
  PATCH_CLASSES,
  PATCH_QUESTIONS,
  type PatchLabels,
  patchLabels,
  WHOLE_CROP,
} from './patchLabels.ts';
export { QUESTION_CLASSES, questionLabels } from './questionLabels.ts';
export { DEFAULT_SIZE, renderPng, renderScene } from './render.ts';
export {
  CAPTION_CATEGORIES,
  CATEGORIES,
  type CaptionCategory,
  type Category,
  type EvalQuestion,
  evalQuestions,
  QA_CATEGORIES,
  type QaCategory,
  type Sample,
  type Split,
  sampleAt,
} from './sample.ts';
export { DEFAULT_OPTIONS, type Panel, type Scene, type SceneObject, type SynthOptions } from './scene.ts';
export { type BlindBaseline, blindBaselines } from './stats.ts';
export { vocabulary } from './vocabulary.ts';
export { wordsOf } from './words.ts';
export { type WriteOptions, writeDataset } from './write.ts';
