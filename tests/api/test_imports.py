"""What the API process must not load: it would cost gigabytes, seconds, or the safety of its own process."""

import subprocess
import sys


def test_the_api_process_loads_no_models_and_no_media_libraries() -> None:
    code = (
        "import sys, asr_service.api.app, asr_service.engine.client, asr_service.audio.pool, asr_service.__main__\n"
        "heavy = {'torch', 'transformers', 'av', 'onnxruntime', 'numpy', 'tokenizers', 'gradio', 'pandas'}\n"
        "print(*heavy & sys.modules.keys())"
    )

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)

    assert (done.returncode, done.stdout, done.stderr) == (0, "\n", "")


def test_a_service_that_checks_nobody_and_counts_alone_loads_neither_cryptography_nor_redis() -> None:
    code = (
        "import sys, asr_service.api.app, asr_service.__main__\n"
        "print(*{'jwt', 'cryptography', 'limits', 'redis'} & sys.modules.keys())"
    )

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)

    assert (done.returncode, done.stdout, done.stderr) == (0, "\n", "")
