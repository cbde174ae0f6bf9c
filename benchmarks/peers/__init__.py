"""The other side: the same models as a good user of each library would write them."""
