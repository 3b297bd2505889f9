/**
 * Entry of the command line: hands argv to the program and turns what comes back into an exit code (0 done, 1 failed, 2 wrong usage).
 * Knows nothing of any command.
 */
import { handleBrokenPipes } from './output.ts';
import { runProgram } from './program.ts';

handleBrokenPipes();
process.exitCode = await runProgram(process.argv.slice(2));
