/** Entry of a compute thread: goes into native code and stays there, but for moments in which it can be terminated, until the team is dissolved. */
import { workerData } from 'node:worker_threads';
import { u32 } from '../platform/native-memory.ts';
import { callerOfAddresses } from '../targets/x64/loader.ts';
import { CONTROL, CONTROL_BYTES } from '../targets/x64/team-driver.ts';
import type { WorkerStart } from './thread-team.ts';

const { driver, control, scratch } = workerData as WorkerStart;
const call = callerOfAddresses();
const words = u32(control, CONTROL_BYTES / 4);
/** Termination is noticed at the entry of a function; at the end of a loop's body only now and then (2.6 s, measured on Node 26.10). */
function takePart(): void {
  call(driver, control, scratch);
}

while (words[CONTROL.leave >> 2] === 0) takePart();
