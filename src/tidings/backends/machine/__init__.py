"""State that the processes of one machine share through files in the data folder."""
