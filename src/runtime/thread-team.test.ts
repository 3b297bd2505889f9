import assert from 'node:assert/strict';
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { readdirSync } from 'node:fs';
import { after, before, describe, it } from 'node:test';
import { fileURLToPath } from 'node:url';
import { skipNative } from '../../test/native-models.ts';
import { CountingCommands } from './testing/counting-commands.ts';
import { ThreadTeam } from './thread-team.ts';

/** With none, one, fewer chunks than threads, and many. */
const CHUNKS = [3, 0, 1, 64, 2, 0, 17];

async function allJoined(team: ThreadTeam): Promise<void> {
  while (team.joinedThreads < team.numThreads) await pause(1);
}

const pause = (ms: number): Promise<void> => new Promise((resolve) => setTimeout(resolve, ms));

/** A team whose next step runs `commands`. */
function teamOn(commands: CountingCommands, threads: number): ThreadTeam {
  const team = new ThreadTeam(threads, 4096);
  team.setCommands(commands.address, commands.numCommands);
  return team;
}

function assertCounts(commands: CountingCommands, steps: number): void {
  const wrong = commands.counts.findIndex((count) => count !== steps);
  assert.equal(wrong, -1, `chunk ${wrong}: ${commands.counts[wrong]} times in ${steps} steps`);
}

describe('thread team', { skip: skipNative }, () => {
  for (const threads of [1, 2, 3, 4]) {
    it(`carries out every chunk once a step on ${threads} threads`, async () => {
      using commands = new CountingCommands(CHUNKS);
      using team = teamOn(commands, threads);
      await allJoined(team);
      for (let step = 1; step <= 200; step++) {
        team.run(1 + (step % threads));
        if (step % 50 === 0) assertCounts(commands, step);
      }
    });
  }

  it('runs steps on the threads that are there while the others start', async () => {
    using commands = new CountingCommands(CHUNKS);
    for (let i = 0; i < 20; i++) {
      using team = teamOn(commands, 3);
      team.run(3);
      await allJoined(team);
      team.run(3);
    }
    assertCounts(commands, 40);
  });

  it('finds its threads after pauses in which they slept', async () => {
    using commands = new CountingCommands(CHUNKS);
    using team = teamOn(commands, 2);
    await allJoined(team);
    for (let step = 1; step <= 12; step++) {
      await pause(step * 5);
      team.run(2);
      assertCounts(commands, step);
    }
    assert.equal(team.joinedThreads, 2);
  });

  it('lets go of threads and memory, used or not', { timeout: 60_000 }, async () => {
    using commands = new CountingCommands(CHUNKS);
    const threadsBefore = numTasks();
    let steps = 0;
    const cycle = async (i: number): Promise<void> => {
      using team = teamOn(commands, i % 10 === 0 ? 3 : 1 + (i % 2));
      if (i % 4 === 1) await allJoined(team);
      if (i % 4 === 2) await pause(i % 11);
      for (let n = i % 5; n > 0; n--, steps++) team.run(3);
    };
    const cycles = async (from: number, to: number): Promise<void> => {
      for (let i = from; i < to; i++) await cycle(i);
      while (numTasks() > threadsBefore) await pause(5);
    };
    await cycles(0, 50); // what grows only once: stacks and heaps that are kept for new threads
    const before = process.memoryUsage.rss();
    await cycles(50, 200);
    const grown = process.memoryUsage.rss() - before;
    assertCounts(commands, steps);
    // Measured: -3 to 12 MB. Stacks and scratch of 90 threads that were not given back would be 1 MB and more, heaps of V8 90 MB.
    assert.ok(grown < 48 * 2 ** 20, `grew by ${grown} bytes in 150 cycles`);
  });

  describe('beside a process that wants all cores', () => {
    const busy: ChildProcess[] = [];
    before(() => {
      for (let i = 0; i < 2; i++) {
        busy.push(spawn(process.execPath, ['-e', 'for (;;);'], { stdio: 'ignore' }));
      }
    });
    after(() => {
      for (const child of busy) child.kill('SIGKILL');
    });

    for (const threads of [2, 3, 4]) {
      it(`comes to the end of every step on ${threads} threads`, { timeout: 60_000 }, async () => {
        using commands = new CountingCommands(CHUNKS);
        using team = teamOn(commands, threads);
        await allJoined(team);
        const end = performance.now() + 1000;
        let steps = 0;
        for (; steps < 3000 && performance.now() < end; steps++) team.run(threads);
        assertCounts(commands, steps);
        assert.ok(steps >= 10, `${steps} steps in 1 s`);
      });
    }
  });
});

/** Threads of this process. */
function numTasks(): number {
  return readdirSync('/proc/self/task').length;
}

describe('a process with a thread team', { skip: skipNative, concurrency: 2 }, () => {
  const program = fileURLToPath(new URL('./testing/team-process.ts', import.meta.url));
  const ends: readonly [way: string, code: number][] = [
    ['natural', 0],
    ['exit', 3],
    ['throw', 1],
    ['reject', 1],
  ];
  const inWorker: readonly [way: string, code: number][] = [...ends, ['terminate', 0]];
  const cases = [
    ...ends.map(([way, code]) => ({ args: [way], code })),
    ...inWorker.map(([way, code]) => ({ args: [way, 'in-worker'], code })),
  ];
  for (const { args, code } of cases) {
    it(`ends with code ${code}: ${args.join(' ')}`, async () => {
      const child = spawn(process.execPath, [program, ...args], { stdio: 'ignore' });
      // Far above what starting takes on a busy machine; a thread that cannot be ended would hold it for ever.
      const killer = setTimeout(() => child.kill('SIGKILL'), 20_000);
      const [exitCode, signal] = await once(child, 'exit');
      clearTimeout(killer);
      assert.deepEqual({ exitCode, signal }, { exitCode: code, signal: null });
    });
  }
});
