"""The web page at /ui: speech from the microphone or a file, transcribed by the service's own public API.

`routes` has its addresses, `login` the way in, `subtitles` the cutting of subtitles, and `page` what a browser gets.
`frame`, which runs in a process of its own, is the only module that knows gradio. What the page does stands in
`static`, in JavaScript.
"""
