"""The choices that `microgpt train TEXT` makes: facts about the text and the machine's speed → a configuration."""
