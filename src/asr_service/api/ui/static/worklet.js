// Runs beside the page, in the browser's audio thread: any rate and channels in, mono 16-bit PCM of one rate out.
//
// Owns resampling: each sample of the output is a weighted sum of the input around it, with the weights of a windowed
// sinc that leaves out what the output's rate cannot hold.

const ZEROS = 16; // of the sinc on each side
const PHASES = 256; // positions between two input samples for which weights are kept
const PASSED = 0.94; // of the band, the rest is for the slope

function weights(ratio) {
  const band = PASSED * Math.min(1, 1 / ratio);
  const half = Math.ceil(ZEROS / band);
  const table = Array.from({ length: PHASES + 1 }, (_, phase) => {
    const row = new Float32Array(2 * half);
    let sum = 0;
    for (let tap = 0; tap < row.length; tap++) {
      const distance = tap - half + 1 - phase / PHASES;
      const sinc = distance === 0 ? 1 : Math.sin(Math.PI * distance * band) / (Math.PI * distance * band);
      const window = Math.max(0, 0.5 + 0.5 * Math.cos((Math.PI * distance) / (half + 1)));
      row[tap] = sinc * window;
      sum += row[tap];
    }
    return row.map((weight) => weight / sum);
  });
  return { half, table };
}

class Microphone extends AudioWorkletProcessor {
  constructor({ processorOptions: { rate, chunkSamples } }) {
    super();
    this.ratio = sampleRate / rate;
    ({ half: this.half, table: this.table } = weights(this.ratio));
    this.input = new Float32Array(this.half);
    this.position = this.half; // of the next output sample, in `input`
    this.chunk = new Int16Array(chunkSamples);
    this.filled = 0;
    this.peak = 0;
    this.port.onmessage = () => {
      this.#send();
      this.port.postMessage({ flushed: true });
    };
  }

  process([channels]) {
    if (channels.length > 0) {
      this.#take(channels);
      this.#give();
    }
    return true;
  }

  #take(channels) {
    const before = this.input.length;
    const input = new Float32Array(before + channels[0].length);
    input.set(this.input);
    for (const channel of channels) {
      for (let i = 0; i < channel.length; i++) input[before + i] += channel[i] / channels.length;
    }
    this.input = input;
  }

  #give() {
    while (this.position + this.half < this.input.length) {
      const first = Math.floor(this.position);
      const row = this.table[Math.round((this.position - first) * PHASES)];
      let value = 0;
      for (let tap = 0, at = first - this.half + 1; tap < row.length; tap++, at++) value += row[tap] * this.input[at];
      this.#put(Math.max(-1, Math.min(1, value)));
      this.position += this.ratio;
    }
    const done = Math.max(0, Math.floor(this.position) - this.half);
    this.input = this.input.slice(done);
    this.position -= done;
  }

  #put(value) {
    this.peak = Math.max(this.peak, Math.abs(value));
    this.chunk[this.filled++] = Math.round(value * 32767);
    if (this.filled === this.chunk.length) this.#send();
  }

  #send() {
    if (this.filled === 0) return;
    const pcm = this.chunk.slice(0, this.filled);
    this.port.postMessage({ pcm, peak: this.peak }, [pcm.buffer]);
    this.filled = 0;
    this.peak = 0;
  }
}

registerProcessor("microphone", Microphone);
