"""A trained model at work: sampling, generating text, chatting, evaluating."""
