import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { UserError } from '../common/errors.ts';
import { logEntryOf, readTrainerState, type TrainerState, writeTrainerState } from './trainerState.ts';

let dir = '';
let file = '';
beforeAll(async () => {
  dir = await mkdtemp(path.join(tmpdir(), 'state-'));
  file = path.join(dir, 'trainer_state.json');
});
afterAll(() => rm(dir, { recursive: true, force: true }));

const row = {
  step: 10,
  epoch: 0.25,
  loss: 2.5,
  cross_entropy: 2.4,
  text_loss: 0.4,
  vision_loss: 0.6,
  learning_rate: 2e-5,
  vision_learning_rate: 0,
  grad_norm: Number.NaN,
  samples_per_s: 11,
  tokens_per_s: 900,
  seconds: 20,
};

const state: TrainerState = {
  epoch: 0.25,
  global_step: 10,
  max_steps: 40,
  num_train_epochs: 1,
  log_history: [logEntryOf(row)],
  best_metric: null,
  best_model_checkpoint: null,
  total_flos: 0,
};

describe('logEntryOf', () => {
  it('leaves times out, and NaN as null', () => {
    expect(logEntryOf(row)).toEqual({
      step: 10,
      epoch: 0.25,
      loss: 2.5,
      cross_entropy: 2.4,
      text_loss: 0.4,
      vision_loss: 0.6,
      learning_rate: 2e-5,
      vision_learning_rate: 0,
      grad_norm: null,
    });
  });
});

describe('trainer_state.json', () => {
  it('is read back as written', async () => {
    await writeTrainerState(dir, state);
    expect(await readTrainerState(dir)).toEqual(state);
  });

  it('has the keys of transformers, sorted, indented by 2', async () => {
    await writeTrainerState(dir, { ...state, log_history: [{ step: 1, epoch: 0, loss: 3 }] });
    expect(await readFile(file, 'utf8')).toBe(`{
  "best_metric": null,
  "best_model_checkpoint": null,
  "epoch": 0.25,
  "global_step": 10,
  "log_history": [
    {
      "epoch": 0,
      "loss": 3,
      "step": 1
    }
  ],
  "max_steps": 40,
  "num_train_epochs": 1,
  "total_flos": 0
}
`);
  });

  it('reads a file of transformers, with what it has besides', async () => {
    const entry = { epoch: 0.5, loss: 3, step: 2, note: 'x' };
    const theirs = { ...state, log_history: [entry], is_world_process_zero: true, trial_name: null };
    await writeFile(file, JSON.stringify(theirs));
    expect(await readTrainerState(dir)).toEqual({
      ...state,
      log_history: [{ epoch: 0.5, loss: 3, step: 2 }],
    });
  });

  it('says that a folder without it has no run to resume', async () => {
    await rm(file, { force: true });
    await expect(readTrainerState(dir)).rejects.toThrow(UserError);
    await expect(readTrainerState(dir)).rejects.toThrow(
      /expected a checkpoint with trainer_state\.json, got none/,
    );
  });

  it.each([
    [{ ...state, global_step: 41 }, /global_step: expected at most max_steps 40, got 41/],
    [{ ...state, global_step: 1.5 }, /global_step: expected an integer from 0, got 1\.5/],
    [{ ...state, log_history: [{ step: 1 }] }, /log_history\.0\.epoch: expected a number, got nothing/],
    [{ epoch: 1 }, /global_step: expected an integer from 0, got nothing/],
  ])('refuses what is no state: %#', async (bad, message) => {
    await writeFile(file, JSON.stringify(bad));
    await expect(readTrainerState(dir)).rejects.toThrow(message);
  });

  it('names the file where the disk refuses', async () => {
    await expect(writeTrainerState(path.join(dir, 'none'), state)).rejects.toThrow(
      /none\/trainer_state\.json/,
    );
  });
});
