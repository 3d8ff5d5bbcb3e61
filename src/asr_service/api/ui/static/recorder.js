// The microphone: opened, heard as PCM, and kept for playing it again.

import { address } from "./service.js";

export const RATE_HZ = 16_000;
const CHUNK_SAMPLES = 1_600;
const KEPT_S = 30 * 60;

/** Why there is no microphone; `message` is the key of a sentence. */
export class MicrophoneError extends Error {}

const KEYS = {
  NotAllowedError: "microphone_denied",
  SecurityError: "microphone_denied",
  NotFoundError: "no_microphone",
  OverconstrainedError: "no_microphone",
};

export class Recorder {
  /** `onAudio(pcm, peak)` gets an Int16Array every 100 ms and its peak from 0 to 1; `onLost()` hears that it is gone. */
  constructor(onAudio, onLost) {
    this.onAudio = onAudio;
    this.onLost = onLost;
  }

  /** Ask for the microphone. Nothing is recorded before `begin`. Throws MicrophoneError. */
  async open() {
    if (!window.isSecureContext || !navigator.mediaDevices) throw new MicrophoneError("not_secure");
    if (!window.AudioWorkletNode) throw new MicrophoneError("no_audio_support");
    // The models were trained on noise, and do worse on cleaned audio.
    const wanted = { channelCount: 1, echoCancellation: false, noiseSuppression: false, autoGainControl: true };
    try {
      this.stream = await navigator.mediaDevices.getUserMedia({ audio: wanted });
    } catch (error) {
      throw new MicrophoneError(KEYS[error.name] ?? "microphone_busy");
    }
    for (const track of this.stream.getTracks()) track.addEventListener("ended", () => this.onLost());
    this.context = new AudioContext();
    await this.context.audioWorklet.addModule(address("page/worklet.js"));
    await this.context.resume();
  }

  /** Record from now on. */
  begin() {
    const options = { numberOfOutputs: 0, processorOptions: { rate: RATE_HZ, chunkSamples: CHUNK_SAMPLES } };
    this.node = new AudioWorkletNode(this.context, "microphone", options);
    this.node.port.onmessage = ({ data }) => {
      if (data.flushed) this.flushed?.();
      else this.onAudio(data.pcm, data.peak);
    };
    this.context.createMediaStreamSource(this.stream).connect(this.node);
  }

  /** Let the microphone go, after the last of the audio has been handed on. */
  async close() {
    if (this.node && this.context.state === "running") {
      const flushed = new Promise((resolve) => {
        this.flushed = resolve;
      });
      this.node.port.postMessage("flush");
      await flushed;
    }
    if (this.node) this.node.port.onmessage = null;
    for (const track of this.stream?.getTracks() ?? []) track.stop();
    if (this.context && this.context.state !== "closed") await this.context.close();
  }
}

/** The last half hour of what was recorded, in samples from the beginning. */
export class Kept {
  constructor() {
    this.clear();
  }

  clear() {
    this.chunks = [];
    this.first = 0; // sample of the first chunk
    this.samples = 0; // recorded altogether
  }

  get seconds() {
    return this.samples / RATE_HZ;
  }

  add(pcm) {
    this.chunks.push(pcm);
    this.samples += pcm.length;
    while (this.samples - this.first > KEPT_S * RATE_HZ) this.first += this.chunks.shift().length;
  }

  /** A stretch as a WAV file, or null when it is not kept any more. */
  wav(startS, endS) {
    const from = Math.max(0, Math.floor(startS * RATE_HZ));
    const to = Math.min(this.samples, Math.ceil(endS * RATE_HZ));
    if (from < this.first || to <= from) return null;
    const parts = [];
    let at = this.first;
    for (const chunk of this.chunks) {
      if (at + chunk.length > from && at < to) parts.push(chunk.subarray(Math.max(0, from - at), Math.min(chunk.length, to - at)));
      at += chunk.length;
    }
    return new Blob([header(2 * (to - from)), ...parts], { type: "audio/wav" });
  }
}

function header(bytes) {
  const view = new DataView(new ArrayBuffer(44));
  const write = (at, text) => [...text].forEach((letter, i) => view.setUint8(at + i, letter.charCodeAt(0)));
  write(0, "RIFF");
  view.setUint32(4, 36 + bytes, true);
  write(8, "WAVEfmt ");
  view.setUint32(16, 16, true);
  view.setUint16(20, 1, true);
  view.setUint16(22, 1, true);
  view.setUint32(24, RATE_HZ, true);
  view.setUint32(28, 2 * RATE_HZ, true);
  view.setUint16(32, 2, true);
  view.setUint16(34, 16, true);
  write(36, "data");
  view.setUint32(40, bytes, true);
  return view;
}
