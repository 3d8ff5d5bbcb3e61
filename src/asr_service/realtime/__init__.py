"""Live speech: from pieces of audio to utterances whose text grows while they are spoken."""
