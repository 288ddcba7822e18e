"""What do we do with it?"""
